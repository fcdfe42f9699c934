"""Files -> rows: JSON, CSV, Parquet, Arrow, the hub or a plugin, in any of the published shapes.

In: a file, a folder or a name, and how its columns are called. Out: `Row`s (a prompt, and up to two answers), one at a
time, or an `InputError` that names the file, the line and the field.

Read rows.py first: what a row is. Then, in the order of the way: files.py (with json_rows.py, tables.py, text_files.py)
and hub.py (lines), mixing.py (several data sets), read.py (`Source`: all of it), fields.py (the table: which fields are
read, which are refused), given.py (one row's), row_shapes.py (which fields are the prompt and the answers),
prompt_fields.py, carried.py (tools, thoughts, template values), messages.py, tools.py, written_turns.py (turns written
as one text) and scores.py. Beside it: cells.py (what a cell holds), said.py (lines that are said once), odd_texts.py
(what is said of texts), keys.py, split.py and same_data.py (which rows are the same).
"""
