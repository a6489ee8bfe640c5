"""Landmark projection as users run it: expressions, stills, films and the page's tab."""
