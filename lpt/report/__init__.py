"""From results to tables, figures and a page.

Open `runs` first: what finished runs say, and which may be compared. `tables` makes rows of them, `figure` is a figure
as data, `drawing` draws it, `interactive` puts it on a page; `sections` and `page` are the page, `ranking` a search's
figures.
"""
