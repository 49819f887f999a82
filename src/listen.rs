//! Where HTTP is listened on: `[::]` is every address of both families, and of IPv4 alone where the machine has no IPv6.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Listens on `address`, without blocking. `[::]` takes IPv4 as well (unless the system's `bindv6only` is set), and stands for
/// `0.0.0.0` where there is no IPv6: one setting for clusters of either family.
///
/// # Errors
/// As [`TcpListener::bind`].
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = or_ipv4(address, TcpListener::bind)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What `bind` makes of `address`; of IPv4's wildcard, if `address` is IPv6's and there is no IPv6.
fn or_ipv4<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let bound = bind(address);
    let no_ipv6 = |error: &io::Error| {
        // Linux: 97, "address family not supported by protocol", which std has no kind for.
        error.raw_os_error() == Some(97) || matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::AddrNotAvailable)
    };
    match bound {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && no_ipv6(&error) => {
            let instead = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tracing::warn!(%address, %instead, "this machine has no IPv6: listening on IPv4 alone");
            bind(instead)
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn without_ipv6_its_wildcard_stands_for_that_of_ipv4() {
        let without = |address: SocketAddr| match address {
            SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(97)),
            SocketAddr::V4(_) => Ok(address.to_string()),
        };
        let bound = |address: &str| or_ipv4(address.parse().expect("an address"), without);
        assert_eq!(bound("[::]:9464").expect("bound"), "0.0.0.0:9464");
        assert_eq!(bound("127.0.0.1:80").expect("bound"), "127.0.0.1:80");
        // Whoever names one address means it.
        assert!(bound("[::1]:9464").is_err());
        // A port that is taken is no lack of IPv6.
        let taken = |_: SocketAddr| Err::<(), _>(io::Error::from(ErrorKind::AddrInUse));
        assert!(or_ipv4("[::]:1".parse().expect("an address"), taken).is_err());
    }

    #[test]
    fn the_wildcard_takes_both_families() {
        let listener = listen("[::]:0".parse().expect("an address")).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let here: &[IpAddr] = if address.is_ipv6() {
            &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        } else {
            println!("NOT CHECKED over IPv6: this machine has none");
            &[IpAddr::V4(Ipv4Addr::LOCALHOST)]
        };
        for &ip in here {
            TcpStream::connect((ip, address.port())).unwrap_or_else(|error| panic!("{ip}: {error}"));
        }
    }
}
