//! One folder per kind: observe, plan, apply, status; run starts them all.
