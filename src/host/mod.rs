//! The host agent's protocol: messages, signatures, client.
