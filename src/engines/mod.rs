//! What differs between Ollama, MLX and OpenAI-compatible servers, behind one trait.
