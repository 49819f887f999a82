//! The wire contract: types, codecs, headers and refusals, free of any NATS or tensor type.
