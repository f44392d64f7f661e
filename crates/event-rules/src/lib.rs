//! What a topic accepts, and who wants which of its events.
