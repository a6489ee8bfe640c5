"""The web page: what it computes, its training jobs, and its layout."""
