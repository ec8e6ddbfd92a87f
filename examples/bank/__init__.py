"""A bank whose event-sourced accounts live in actors, one actor per account."""
