//! Settings, layered and validated.
