//! Redirects of the hub: where they lead, how many are followed, and that none leads back.

use ureq::Body;
use ureq::http::Response;
use url::Url;

use super::super::error::HubFailure;
use super::http::text;

/// Redirects that a request follows.
const REDIRECTS_MAX: usize = 10;

/// Where a request was sent, one redirect after the other.
pub(super) struct Way(Vec<Url>);

impl Way {
    pub(super) fn new(url: Url) -> Way {
        Way(vec![url])
    }

    pub(super) fn at(&self) -> &Url {
        // Proof: it begins with one and only grows.
        self.0.last().expect("a first address")
    }

    /// Follows a redirect.
    ///
    /// # Errors
    /// It leads back to where the request was before, or there were too many.
    pub(super) fn on(&mut self, url: Url) -> Result<(), HubFailure> {
        let host = self.0[0].host_str().unwrap_or_default();
        // Without what stands behind a `?`, which may be a signature.
        let shown = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
        let reason = if self.0.contains(&url) {
            format!("{host} redirects in a circle, back to {shown}")
        } else if self.0.len() > REDIRECTS_MAX {
            format!("{host} redirects more than {REDIRECTS_MAX} times, last to {shown}")
        } else {
            self.0.push(url);
            return Ok(());
        };
        Err(HubFailure::Protocol { reason })
    }
}

/// Where a redirect leads, and whether it stays with the server by being relative.
pub(super) fn redirect(from: &Url, response: &Response<Body>) -> Result<Option<(Url, bool)>, HubFailure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let host = from.host_str().unwrap_or_default();
    let odd = |reason: &str| HubFailure::Protocol {
        reason: format!("{host} redirects {reason}"),
    };
    let location = text(response.headers(), "location").ok_or_else(|| odd("to nowhere"))?;
    let relative =
        matches!(Url::parse(&location), Err(url::ParseError::RelativeUrlWithoutBase)) && !location.starts_with("//");
    let target = from
        .join(&location)
        .map_err(|_| odd("to something that is no address"))?;
    match target.scheme() {
        "https" => {}
        // Never from a safe connection to one that anyone may change.
        "http" if from.scheme() == "http" => {}
        _ => return Err(odd("to an address that is not https")),
    }
    Ok(Some((target, relative)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_ends_where_it_turns_back_or_grows_too_long() {
        let url = |path: &str| Url::parse(&format!("https://hub.example/{path}?signature=secret")).unwrap();
        let mut way = Way::new(url("0"));
        for place in 1..=REDIRECTS_MAX {
            way.on(url(&place.to_string())).unwrap();
        }
        let circle = way.on(url("3")).unwrap_err().to_string();
        assert_eq!(circle, "hub.example redirects in a circle, back to hub.example/3");
        let long = way.on(url("11")).unwrap_err().to_string();
        assert!(
            long.contains("more than 10 times") && !long.contains("secret"),
            "{long}"
        );
    }
}
