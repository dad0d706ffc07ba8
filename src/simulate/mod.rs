//! A fake engine that misbehaves on demand, to rehearse a failure before it happens.
