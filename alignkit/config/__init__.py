"""alignkit.toml and the layers over it: one place decides the value of every option, and knows who gave it.

In: a method's class, what was typed, a file, perhaps a run to be like. Out: a `Resolved` (or `Settings`, without a
method), whose sections are pydantic models, with the place of each given value.

Read in this order:
    settings  every option that is not a method's own: the sections of the file
    source    the file, and the line on which each key stands
    fields    what a field allows, in words, and how typed text becomes a value
    layers    each place that values come from, as one layer: file, --like, preset, --set, options
    file      lays them over each other and validates: `resolve` and `judge_settings`
"""
