"""The prompts of the data set `general`: six kinds, each of ten templates with five prompts.

In: nothing. Out: `Task`s: a prompt, the rules of its answer, a right answer that satisfies all of them and a wrong one
that does not. All were written for alignkit. Begin with `task`; the kinds are one file each: `facts`, `sums`,
`formats`, `refusal`, `languages`, `reading`.
"""
