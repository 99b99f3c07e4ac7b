"""The report of `pplcnet reproduce`: from its raw values to HTML and Markdown."""
