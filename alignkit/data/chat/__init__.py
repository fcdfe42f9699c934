"""Conversations -> texts: the chat template of a model, and which of its characters are scored.

In: messages. Out: `TextWithSpans`: the text, and the stretches that the loss sees.

Read chat.py first: a `Chat` is what the other rooms use. template.py compiles a template (template_worker.py renders
one that is not trusted, in a process of its own), template_values.py says which values it reads; layouts.py finds out
where a template puts the contents of messages and what it supplies, shapes.py uses that to render many conversations
without running it; injected_tokens.py keeps special tokens that users typed text.
"""
