//! Whom this program's HTTP clients trust.

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The system's certificates, so that a company's own server is trusted where the system trusts it. `None` in a container
/// without any: then those that are built in hold.
pub fn system_roots() -> Option<TlsConfig> {
    let native = rustls_native_certs::load_native_certs();
    if native.certs.is_empty() {
        return None;
    }
    let roots = native.certs.iter().map(|der| Certificate::from_der(der).to_owned());
    Some(TlsConfig::builder().root_certs(RootCerts::from(roots)).build())
}
