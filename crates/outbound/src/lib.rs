//! The one HTTP client for addresses that users give.
