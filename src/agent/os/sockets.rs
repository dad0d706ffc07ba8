//! Who listens on a port. The kernel is asked for listening sockets alone: `/proc/net/tcp` walks over all that there may be, which costs
//! milliseconds on a machine with much memory, and is read only where it doesn't answer.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// What the kernel sends at once is at most as much as there is room for, and no less than one page.
const ROOM: usize = 32 * 1024;
/// Parts of one answer. A port has as many listeners as a server has workers.
const PARTS: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub struct Socket {
    pub address: IpAddr,
    pub inode: u64,
    pub uid: u32,
}

pub fn sockets(port: u16) -> io::Result<Vec<Socket>> {
    asked(port).or_else(|_| listed(port))
}

/// By the kernel's socket diagnostics, which not every kernel has.
fn asked(port: u16) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (family, mut socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        socket_id.source_port = port;
        let (protocol, extensions, states) = (IPPROTO_TCP, ExtensionFlags::empty(), StateFlags::LISTEN);
        dump(InetRequest { family, protocol, extensions, states, socket_id }, &mut sockets)?;
    }
    // Kernels before 4.16 give the listeners of every port.
    sockets.retain(|(of, _)| *of == port);
    Ok(sockets.into_iter().map(|(_, socket)| socket).collect())
}

fn dump(request: InetRequest, sockets: &mut Vec<(u16, Socket)>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut sent = vec![0; message.buffer_len()];
    message.serialize(&mut sent);
    let mut kernel = netlink_sys::Socket::new(NETLINK_SOCK_DIAG)?;
    kernel.bind_auto()?;
    kernel.connect(&SocketAddr::new(0, 0))?;
    // The answer is there as soon as it is asked for.
    kernel.set_non_blocking(true)?;
    kernel.send(&sent, 0)?;
    let mut room = Vec::with_capacity(ROOM);
    for _ in 0..PARTS {
        room.clear();
        kernel.recv(&mut room, 0)?;
        let mut rest = room.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let header = response.header;
                    let (address, inode) = (header.socket_id.source_address, header.inode.into());
                    sockets.push((header.socket_id.source_port, Socket { address, inode, uid: header.uid }));
                }
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
    Err(io::Error::other("too many sockets listen on one port"))
}

/// By `/proc`.
fn listed(port: u16) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().skip(1).filter_map(|l| parse_socket(l, port))),
            // Without IPv6 there is no second table.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sockets)
}

/// A line of `/proc/net/tcp` that listens on the port.
fn parse_socket(line: &str, port: u16) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, hex_port) = fields.get(1)?.split_once(':')?;
    let listens = *fields.get(3)? == "0A";
    if !listens || u16::from_str_radix(hex_port, 16).ok()? != port {
        return None;
    }
    Some(Socket {
        address: parse_address(address)?,
        inode: fields.get(9)?.parse().ok()?,
        uid: fields.get(7)?.parse().ok()?,
    })
}

/// Addresses are words in the machine's byte order, in hexadecimal digits.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| {
        let word = u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for i in 0..4 {
                bytes[i * 4..i * 4 + 4].copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn both_ways_find_the_same_listeners() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let bound = listener.local_addr().unwrap();
            let connected = std::net::TcpStream::connect(bound).unwrap();
            let (asked, listed) = (asked(bound.port()).unwrap(), listed(bound.port()).unwrap());
            assert_eq!(asked, listed, "{address}");
            assert_eq!(asked.iter().map(|one| one.address).collect::<Vec<_>>(), [bound.ip()], "{address}");
            drop((connected, listener));
        }
        assert_eq!(asked(1).unwrap(), []);
    }

    #[test]
    fn a_listening_line_is_read_and_any_other_is_not() {
        let line = "   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let socket = Socket { address: Ipv4Addr::LOCALHOST.into(), inode: 31337, uid: 1000 };
            assert_eq!(parse_socket(line, 11434), Some(socket));
        }
        assert_eq!(parse_socket(line, 11435), None, "another port");
        assert_eq!(parse_socket(&line.replace(" 0A ", " 01 "), 11434), None, "a connection");
        let six = "00000000000000000000000001000000";
        if cfg!(target_endian = "little") {
            assert_eq!(parse_address(six), Some(Ipv6Addr::LOCALHOST.into()));
        }
    }
}
