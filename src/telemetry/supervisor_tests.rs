use std::sync::{Arc, Mutex};

use super::*;

const WATCHDOG: Duration = Duration::from_secs(30);

fn report(phase: Phase, alive: bool, status: &str) -> Report {
    Report {
        phase,
        alive,
        status: status.to_owned(),
    }
}

/// A book that is told everything, at times given in seconds.
struct Told {
    book: Book,
    started: Instant,
}

impl Told {
    fn new(watchdog: Option<Duration>) -> Told {
        let started = Instant::now();
        Told {
            book: Book::new(watchdog, Duration::from_secs(35), started),
            started,
        }
    }

    fn at(&mut self, seconds: u64, report: Report) -> String {
        let (text, book) = self.book.due(&report, self.started + Duration::from_secs(seconds));
        self.book = book;
        text
    }
}

#[test]
fn a_life_from_start_to_stop() {
    let mut told = Told::new(Some(WATCHDOG));
    let loading = || report(Phase::Starting, true, "loading");
    let ready = || report(Phase::Ready, true, "serving");
    assert_eq!(told.at(0, loading()), "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=loading");
    assert_eq!(told.at(9, loading()), "");
    assert_eq!(told.at(10, loading()), "EXTEND_TIMEOUT_USEC=60000000");
    assert_eq!(told.at(11, ready()), "READY=1\nWATCHDOG=1\nSTATUS=serving");
    assert_eq!(told.at(20, ready()), "");
    assert_eq!(told.at(21, ready()), "WATCHDOG=1");
    // Lost its subscription: started all the same, and not started anew.
    assert_eq!(
        told.at(22, report(Phase::Starting, true, "connecting")),
        "STATUS=connecting"
    );
    assert_eq!(told.at(31, ready()), "WATCHDOG=1\nSTATUS=serving");
    assert_eq!(
        told.at(32, report(Phase::Stopping, true, "two\nlines")),
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\nSTATUS=two lines"
    );
    assert_eq!(told.at(60, report(Phase::Stopping, true, "two\nlines")), "");
    assert_eq!(told.at(61, ready()), "STATUS=serving");
}

#[test]
fn without_signs_of_life_there_is_no_ping() {
    let mut told = Told::new(Some(WATCHDOG));
    assert_eq!(
        told.at(0, report(Phase::Ready, true, "s")),
        "READY=1\nWATCHDOG=1\nSTATUS=s"
    );
    for second in 1..200 {
        assert_eq!(told.at(second, report(Phase::Ready, false, "s")), "");
    }
    assert_eq!(told.at(200, report(Phase::Ready, true, "s")), "WATCHDOG=1");
}

#[test]
fn a_start_may_take_long_and_not_for_ever() {
    let mut told = Told::new(None);
    let extended = |told: &mut Told, second| told.at(second, report(Phase::Starting, true, "")).contains("EXTEND");
    assert!(extended(&mut told, 0) && extended(&mut told, 3599) && !extended(&mut told, 3600));
    assert_eq!(told.at(4000, report(Phase::Ready, true, "")), "READY=1");
    assert_eq!(told.at(9000, report(Phase::Ready, true, "")), "");
}

#[test]
fn the_watchdog_is_for_the_process_that_is_named() {
    let text = |text: &str| Some(OsString::from(text));
    assert_eq!(watchdog(text("30000000"), text("7"), 7), Some(WATCHDOG));
    assert_eq!(watchdog(text("30000000"), None, 7), Some(WATCHDOG));
    for (usec, pid) in [
        (text("30000000"), text("8")),
        (text("30000000"), text("x")),
        (text("0"), None),
        (text("soon"), None),
        (None, None),
    ] {
        assert_eq!(watchdog(usec, pid, 7), None);
    }
    assert_eq!(Book::new(None, WATCHDOG, Instant::now()).pause(), LOOK_EVERY);
    let short = Book::new(Some(Duration::from_millis(60)), WATCHDOG, Instant::now());
    assert_eq!(short.pause(), Duration::from_millis(10));
}

/// Over a real socket, first with a path and then abstract; what nobody takes is told again.
#[test]
fn a_socket_hears_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let hear = |server: &UnixDatagram| {
        let mut bytes = [0; 1024];
        let length = server.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let server = UnixDatagram::bind(&path).expect("a socket");
    let client = connect(path.as_os_str()).expect("a path");
    let now = Arc::new(Mutex::new(report(Phase::Starting, true, "loading")));
    let (stop, stopped) = mpsc::sync_channel(1);
    let thread = std::thread::spawn({
        let now = now.clone();
        let book = Book::new(Some(WATCHDOG), WATCHDOG, Instant::now());
        move || tell(&client, book, &|| now.lock().expect("a report").clone(), &stopped)
    });
    assert!(hear(&server).ends_with("STATUS=loading"));
    *now.lock().expect("a report") = report(Phase::Ready, true, "serving");
    assert_eq!(hear(&server), "READY=1\nWATCHDOG=1\nSTATUS=serving");
    drop(stop);
    assert!(hear(&server).starts_with("STOPPING=1\n"));
    thread.join().expect("no panic");
    assert!(connect(OsStr::new("/no/such/socket")).is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_socket_is_found() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("nats-rerank-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let server = UnixDatagram::bind_addr(&address).expect("a socket");
    let client = connect(OsStr::new(&format!("@{name}"))).expect("an abstract name");
    client.send(b"READY=1").expect("sent");
    let mut bytes = [0; 16];
    let length = server.recv(&mut bytes).expect("a datagram");
    assert_eq!(&bytes[..length], b"READY=1");
}
