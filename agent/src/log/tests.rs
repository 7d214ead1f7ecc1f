//! The log as its callers see it, over real files.
