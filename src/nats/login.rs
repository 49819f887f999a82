//! How a connection logs in. What stands in files is read again at each connect, so that rotated credentials are taken up
//! by the next one; a file that cannot be read just then leaves what was read before.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Auth, AuthError, ClientError, ConnectOptions, ServerAddr};

use super::{ConnectError, ConnectionSettings, unreadable};

/// Refusals of the credentials in a row, each at another try to connect, after which waiting for better ones is over. The
/// client library waits longer from try to try, 4 s at most: so many take some eight seconds.
pub(crate) const REFUSALS_MAX: u32 = 13;

/// A file of credentials longer than this is another file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Whether this is what the client library reports when a server refuses the credentials as a lost connection is taken up
/// again: once for each try.
pub(crate) fn is_refusal(error: &ClientError) -> bool {
    matches!(error, ClientError::Other(text) if text == "authorization violation" || text == "failed signing nonce")
}

/// The options with whichever way to log in is set: at most one.
pub(super) fn options(settings: &ConnectionSettings, servers: &[ServerAddr]) -> Result<ConnectOptions, ConnectError> {
    let in_url = servers.iter().find(|server| server.has_user_pass());
    check(settings, in_url.is_some())?;
    if let Some(source) = Source::of(settings) {
        return source.options();
    }
    let options = ConnectOptions::new();
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        return Ok(options.user_and_password(user.clone(), password.clone()));
    }
    if let Some(token) = &settings.token {
        return Ok(options.token(token.clone()));
    }
    // async-nats reads the user out of a URL, but does not send it. A user alone is a token, as in other NATS clients.
    Ok(
        match in_url.map(|server| (server.username().unwrap_or_default(), server.password())) {
            Some((user, Some(password))) => options.user_and_password(unescaped(user), unescaped(password)),
            Some((token, None)) => options.token(unescaped(token)),
            None => options,
        },
    )
}

/// At most one way to log in, and none by half.
fn check(settings: &ConnectionSettings, in_url: bool) -> Result<(), ConnectError> {
    let ways = [
        ("nats.credentials_file", settings.credentials_file.is_some()),
        ("nats.nkey_seed_file", settings.nkey_seed_file.is_some()),
        ("nats.user", settings.user.is_some()),
        ("nats.token", settings.token.is_some()),
        ("nats.token_file", settings.token_file.is_some()),
        ("a user in `nats.url`", in_url),
    ];
    let set: Vec<&str> = ways.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if set.len() > 1 {
        return Err(ConnectError::settings(format!(
            "more than one way to authenticate is set: {}; keep one",
            set.join(", ")
        )));
    }
    if settings.password.is_some() && settings.password_file.is_some() {
        return Err(ConnectError::settings(
            "`nats.password` and `nats.password_file` are both set; keep one",
        ));
    }
    let password = settings.password.is_some() || settings.password_file.is_some();
    if settings.user.is_some() != password {
        return Err(ConnectError::settings(
            "`nats.user` and `nats.password` (or `nats.password_file`) go together: only one of them is set",
        ));
    }
    Ok(())
}

/// Credentials that stand in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Credentials(PathBuf),
    Seed(PathBuf),
    Password { user: String, file: PathBuf },
    Token(PathBuf),
}

/// What was read of a [`Source`].
enum Login {
    Jwt { jwt: String, key: nkeys::KeyPair },
    Nkey(nkeys::KeyPair),
    Password { user: String, password: String },
    Token(String),
}

impl Source {
    fn of(settings: &ConnectionSettings) -> Option<Source> {
        let credentials = settings.credentials_file.clone().map(Source::Credentials);
        let seed = settings.nkey_seed_file.clone().map(Source::Seed);
        let token = settings.token_file.clone().map(Source::Token);
        let password = match (&settings.user, &settings.password_file) {
            (Some(user), Some(file)) => Some(Source::Password {
                user: user.clone(),
                file: file.clone(),
            }),
            _ => None,
        };
        credentials.or(seed).or(token).or(password)
    }

    /// Options that read the file anew at each connect. It is read once here, so that a mistake shows before anything is
    /// opened.
    fn options(self) -> Result<ConnectOptions, ConnectError> {
        let last = Arc::new(Mutex::new(self.read()?));
        Ok(ConnectOptions::with_auth_callback(move |nonce| {
            std::future::ready(self.answer(&nonce, &last))
        }))
    }

    /// What the server is shown. `nonce` is what it wants to have signed.
    fn answer(&self, nonce: &[u8], last: &Mutex<Login>) -> Result<Auth, AuthError> {
        // Replaced as a whole: a panic elsewhere leaves nothing half written.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read() {
            Ok(login) => *last = login,
            Err(error) => {
                tracing::warn!(%error, "the credentials cannot be read again: using those that were read before");
            }
        }
        last.auth(nonce)
    }

    fn read(&self) -> Result<Login, ConnectError> {
        match self {
            Source::Credentials(file) => {
                let text = read("nats.credentials_file", file)?;
                let login = jwt_and_seed(&text).and_then(|(jwt, seed)| {
                    let key = nkeys::KeyPair::from_seed(seed).ok()?;
                    Some(Login::Jwt {
                        jwt: jwt.to_owned(),
                        key,
                    })
                });
                login.ok_or_else(|| {
                    ConnectError::settings(format!(
                        "`nats.credentials_file`: {} is not a credentials file with a JWT and a user's nkey seed",
                        file.display()
                    ))
                })
            }
            Source::Seed(file) => {
                let text = read("nats.nkey_seed_file", file)?;
                let key = seed_of(&text).and_then(|seed| nkeys::KeyPair::from_seed(seed).ok());
                key.map(Login::Nkey).ok_or_else(|| {
                    ConnectError::settings(format!(
                        "`nats.nkey_seed_file`: {} holds no line with an nkey seed (`S…`)",
                        file.display()
                    ))
                })
            }
            Source::Password { user, file } => Ok(Login::Password {
                user: user.clone(),
                password: secret("nats.password_file", file)?,
            }),
            Source::Token(file) => secret("nats.token_file", file).map(Login::Token),
        }
    }
}

impl Login {
    fn auth(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let sign = |key: &nkeys::KeyPair| {
            key.sign(nonce)
                .map_err(|_| AuthError::new("the nkey seed cannot sign what the server asks for"))
        };
        let mut auth = Auth::new();
        match self {
            Login::Jwt { jwt, key } => {
                auth.signature = Some(sign(key)?);
                auth.jwt = Some(jwt.clone());
            }
            Login::Nkey(key) => {
                auth.signature = Some(sign(key)?);
                auth.nkey = Some(key.public_key());
            }
            Login::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Login::Token(token) => auth.token = Some(token.clone()),
        }
        Ok(auth)
    }
}

/// The user JWT and the seed of a `.creds` file: the first two lines that stand alone between lines of dashes.
fn jwt_and_seed(text: &str) -> Option<(&str, &str)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_frame = |line: &str| line.len() > 6 && line.starts_with("---") && line.ends_with("---");
    let is_content = |line: &str| {
        !line.is_empty()
            && line
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'='))
    };
    let mut framed = lines
        .windows(3)
        .filter(|three| is_frame(three[0]) && !is_frame(three[1]) && is_content(three[1]) && is_frame(three[2]))
        .map(|three| three[1]);
    Some((framed.next()?, framed.next()?))
}

/// The seed in a seed file: alone, or between the lines that `nk` and `nsc` put around it.
fn seed_of(text: &str) -> Option<&str> {
    let is_seed = |line: &&str| {
        line.len() > 40
            && line.starts_with('S')
            && line
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    text.lines().map(str::trim).find(is_seed)
}

/// A file that holds a password or a token alone; white space around it does not count.
fn secret(setting: &str, file: &Path) -> Result<String, ConnectError> {
    let text = read(setting, file)?;
    match text.trim() {
        "" => Err(ConnectError::settings(format!(
            "`{setting}`: {} is empty",
            file.display()
        ))),
        secret => Ok(secret.to_owned()),
    }
}

fn read(setting: &str, file: &Path) -> Result<String, ConnectError> {
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| unreadable(setting, file, &error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConnectError::settings(format!(
            "`{setting}`: {} is longer than {FILE_BYTES_MAX} bytes",
            file.display()
        )));
    }
    Ok(text)
}

/// Undoes a URL's percent escapes.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const SEED: &str = "SUAMLWWRDQ6PTX7LTTUQ7BCFFQ4DKDTE5JFQ7IWWRMUGCTQIX2TP3TYS5Q";

    #[test]
    fn a_seed_is_found_with_and_without_its_frame() {
        assert_eq!(seed_of(&format!("{SEED}\n")), Some(SEED));
        let framed = format!("-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n");
        assert_eq!(seed_of(&framed), Some(SEED));
        assert_eq!(seed_of("SOMETHING ELSE"), None);
    }

    #[test]
    fn a_credentials_file_is_read_as_tools_write_it() {
        let jwt = "eyJ0eXAiOiJKV1QifQ.eyJq-GkiOiJB_Q.c2ln";
        let written = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n\
             -----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n\n****\n"
        );
        assert_eq!(jwt_and_seed(&written), Some((jwt, SEED)));
        assert_eq!(jwt_and_seed(&written.replace('\n', "\r\n")), Some((jwt, SEED)));
        assert_eq!(jwt_and_seed(written.trim_end_matches("\n\n****\n")), Some((jwt, SEED)));
        assert_eq!(jwt_and_seed(&written[..100]), None);
        assert_eq!(jwt_and_seed(""), None);
    }

    #[test]
    fn escapes_in_a_url_are_undone() {
        assert_eq!(unescaped("p%40ss%2Fword"), "p@ss/word");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%é"), "%zz%é");
    }

    #[test]
    fn a_file_is_read_at_each_connect_and_one_that_is_gone_leaves_what_was_read() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"first\n").expect("room");
        let source = Source::Token(file.path().to_owned());
        let last = Mutex::new(source.read().expect("a token"));
        let token = || source.answer(b"", &last).expect("a token").token;
        assert_eq!(token().as_deref(), Some("first"));
        std::fs::write(file.path(), "second").expect("room");
        assert_eq!(token().as_deref(), Some("second"));
        // Half of a rotation: emptied, then gone.
        std::fs::write(file.path(), "").expect("room");
        assert_eq!(token().as_deref(), Some("second"));
        drop(file);
        assert_eq!(token().as_deref(), Some("second"));
    }
}
