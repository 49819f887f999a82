//! W3C trace context: which span of the caller's a request belongs to.
//!
//! Read strictly, as the recommendation wants it (<https://www.w3.org/TR/trace-context/>), and never a reason to refuse a
//! request: what cannot be read is as good as not sent.

use std::fmt;

/// Bytes of a `tracestate` that is kept; a longer one is dropped whole.
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// Members of a `tracestate`.
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// Bytes of a member's key, and of its value.
const MEMBER_BYTES_MAX: usize = 256;
/// Bytes of a `traceparent` of version 00, and of what later versions begin with.
const TRACEPARENT_BYTES: usize = 55;
/// The one flag whose meaning is known: the caller may have recorded the trace.
const SAMPLED: u8 = 1;

/// A caller's span: its trace, its own id, whether it is recorded, and what vendors added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    sampled: bool,
    state: Option<Box<str>>,
}

/// The id of a trace: 16 bytes, not all zero. Shown as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

/// The id of a span: 8 bytes, not all zero. Shown as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId([u8; 8]);

impl TraceContext {
    /// Reads the values of the two headers. `None` for a `traceparent` that is malformed; a malformed or overlong
    /// `tracestate` is left out.
    ///
    /// A later version is read as version 00 if it begins like one, as the recommendation says; version ff is none.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<TraceContext> {
        let text = traceparent.trim_matches([' ', '\t']).as_bytes();
        let (fields, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
        let dashes = [2, 35, 52].iter().all(|&place| fields[place] == b'-');
        let [version] = hex(&fields[..2])?;
        // Version 00 ends here; what a later one adds is set off by a dash.
        let ends = rest.is_empty() || (version > 0 && rest[0] == b'-');
        if !dashes || !ends || version == 0xff {
            return None;
        }
        let [flags] = hex(&fields[53..])?;
        Some(TraceContext {
            trace_id: TraceId::new(hex(&fields[3..35])?)?,
            span_id: SpanId::new(hex(&fields[36..52])?)?,
            sampled: flags & SAMPLED != 0,
            state: tracestate.and_then(state),
        })
    }

    /// The context of a span, to be sent along.
    pub fn new(trace_id: TraceId, span_id: SpanId, sampled: bool) -> TraceContext {
        TraceContext {
            trace_id,
            span_id,
            sampled,
            state: None,
        }
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The caller's span, the parent of what is done for it.
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The value of a `traceparent` header, version 00.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }

    /// The value of a `tracestate` header, at most [`TRACESTATE_BYTES_MAX`] bytes.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl TraceId {
    /// `None` for the id of zeros, which stands for no trace.
    pub fn new(bytes: [u8; 16]) -> Option<TraceId> {
        (bytes != [0; 16]).then_some(TraceId(bytes))
    }

    /// Its bytes, in the order in which they are written.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// `None` for the id of zeros, which stands for no span.
    pub fn new(bytes: [u8; 8]) -> Option<SpanId> {
        (bytes != [0; 8]).then_some(SpanId(bytes))
    }

    /// Its bytes, in the order in which they are written.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Lower-case hexadecimal digits, two a byte.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// A `tracestate` that is well formed and within its bounds. Members keep their order; empty ones and the space around
/// them are left out.
fn state(text: &str) -> Option<Box<str>> {
    // Cheap to say of the whole, so that a stranger's megabyte is not taken apart.
    if text.len() > 4 * TRACESTATE_BYTES_MAX {
        return None;
    }
    let mut members: Vec<(&str, &str)> = Vec::new();
    for member in text.split(',') {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        let twice = members.iter().any(|(other, _)| *other == key);
        if !is_key(key) || !is_value(value) || twice || members.len() == TRACESTATE_MEMBERS_MAX {
            return None;
        }
        members.push((key, value));
    }
    let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let joined = members.join(",");
    (!joined.is_empty() && joined.len() <= TRACESTATE_BYTES_MAX).then(|| joined.into_boxed_str())
}

fn is_key(key: &str) -> bool {
    key.len() <= MEMBER_BYTES_MAX
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte))
}

/// Printable, without the two signs that set members and their parts off.
fn is_value(value: &str) -> bool {
    (1..=MEMBER_BYTES_MAX).contains(&value.len())
        && value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parsed(traceparent: &str) -> Option<TraceContext> {
        TraceContext::parse(traceparent, None)
    }

    fn kept(tracestate: &str) -> Option<String> {
        let context = TraceContext::parse(&format!("00-{TRACE}-{SPAN}-01"), Some(tracestate));
        context
            .expect("a tracestate never spoils its traceparent")
            .tracestate()
            .map(str::to_owned)
    }

    #[test]
    fn the_recommendations_own_example() {
        let context = parsed(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(context.trace_id().to_string(), TRACE);
        assert_eq!(context.span_id().to_string(), SPAN);
        assert_eq!(context.trace_id().bytes()[..2], [0x4b, 0xf9]);
        assert!(context.is_sampled());
        assert!(!parsed(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled());
        // Flags that are not known today are allowed, and not handed on.
        let later = parsed(&format!("00-{TRACE}-{SPAN}-ff")).unwrap();
        assert_eq!(later.traceparent(), format!("00-{TRACE}-{SPAN}-01"));
        assert!(!parsed(&format!("00-{TRACE}-{SPAN}-fe")).unwrap().is_sampled());
        // Space around a header's value is not part of it.
        assert!(parsed(&format!(" \t00-{TRACE}-{SPAN}-01 ")).is_some());
    }

    #[test]
    fn malformed_ones_are_none() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("FF-{TRACE}-{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!("00-{}-{SPAN}-01", TRACE.replace('4', "é").get(..32).unwrap_or_default()),
            format!("00 {TRACE} {SPAN} 01"),
            "é".repeat(40),
        ] {
            assert_eq!(parsed(&text), None, "{text:?}");
        }
    }

    #[test]
    fn later_versions_are_read_by_their_known_part() {
        for rest in ["", "-", "-what-comes-later", "-01,x"] {
            let context = parsed(&format!("cc-{TRACE}-{SPAN}-01{rest}")).unwrap();
            assert_eq!(context.traceparent(), format!("00-{TRACE}-{SPAN}-01"));
        }
        for rest in [".", "0", " x", ",cc"] {
            assert_eq!(parsed(&format!("cc-{TRACE}-{SPAN}-01{rest}")), None, "{rest:?}");
        }
        assert_eq!(parsed(&format!("fe-{TRACE}-{SPAN}-0")), None);
    }

    #[test]
    fn a_tracestate_is_kept_or_left_out_and_never_a_reason_to_drop_its_parent() {
        assert_eq!(
            kept("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7").as_deref(),
            Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")
        );
        assert_eq!(kept(" a=1 ,\t,, 1b@c/d=x y!").as_deref(), Some("a=1,1b@c/d=x y!"));
        for bad in [
            "", " , ", "a", "=1", "a=", "A=1", "a=1,a=2", "a=b=c", "a=\u{7f}", "a=é", "a b=1", "_a=1", "a=1;b",
        ] {
            let fine = bad == "a=1;b";
            assert_eq!(kept(bad).is_some(), fine, "{bad:?}");
        }
        let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert!(kept(&members(32)).is_some());
        assert_eq!(kept(&members(33)), None);
        let long = |bytes: usize| {
            let start = format!("a={},b={},c=", "x".repeat(250), "y".repeat(200));
            let rest = "z".repeat(bytes - start.len());
            start + &rest
        };
        assert_eq!(kept(&long(TRACESTATE_BYTES_MAX)).map(|text| text.len()), Some(512));
        assert_eq!(kept(&long(TRACESTATE_BYTES_MAX + 1)), None);
        assert_eq!(kept(&"a".repeat(1 << 20)), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled in any::<bool>()) {
            let (Some(trace), Some(span)) = (TraceId::new(trace), SpanId::new(span)) else {
                return Ok(());
            };
            let context = TraceContext::new(trace, span, sampled);
            prop_assert_eq!(parsed(&context.traceparent()), Some(context));
        }

        #[test]
        fn any_text_is_read_or_left(parent in ".{0,80}", state in proptest::option::of(".{0,600}")) {
            if let Some(context) = TraceContext::parse(&parent, state.as_deref()) {
                prop_assert!(context.tracestate().is_none_or(|state| state.len() <= TRACESTATE_BYTES_MAX));
            }
        }

        /// One character of a good header changed: read as another header of the same form, or not at all.
        #[test]
        fn a_changed_character_makes_no_other_form(place in 0..TRACEPARENT_BYTES, to in any::<char>()) {
            let good = format!("00-{TRACE}-{SPAN}-01");
            let text: String = good
                .chars()
                .enumerate()
                .map(|(index, c)| if index == place { to } else { c })
                .collect();
            let expected = match place {
                2 | 35 | 52 => to == '-',
                _ => to.is_ascii_digit() || ('a'..='f').contains(&to),
            };
            prop_assert_eq!(parsed(&text).is_some(), expected, "{:?}", text);
        }

        #[test]
        fn a_kept_tracestate_is_kept_again(state in "[a-z]{1,3}=[ -~]{0,6}(,[a-z]{1,3}=[ -~]{0,6}){0,3}") {
            if let Some(once) = kept(&state) {
                let again = kept(&once);
                prop_assert_eq!(again, Some(once));
            }
        }
    }
}
