"""Loss terms: pure functions, batch means without weights."""
