"""The seeded grammar behind the demo tasks: word lists, template families, and ways in which an answer can be bad."""
