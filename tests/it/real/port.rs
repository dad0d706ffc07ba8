use std::net::TcpListener;

/// A port of 127.0.0.1 that nobody listens on, above those that examples and engines have. As in `tests/parts/serve.sh` below those that the kernel gives to whoever asks for any:
/// what is stopped for a while finds its port free again.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(22_000..32_768);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
