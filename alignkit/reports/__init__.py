"""report.html: one file that holds everything it shows and asks no network for anything.

In: a run's folder, or tables, curves, verdicts and answers that are there already. Out: one HTML page.

Read in this order: `page` (tables, sections, verdicts, examples), `run_report` (what a run's page holds), `live` (the
same in a browser while the run trains), `audit_page`.
The charts are drawn in alignkit/charts/, the templates lie in templates/.
"""
