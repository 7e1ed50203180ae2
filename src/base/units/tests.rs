use proptest::prelude::*;

use super::*;

#[test]
fn durations() {
    for (text, nanos, printed) in [
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("100ms", 100_000_000, "100ms"),
        ("1.5s", 1_500_000_000, "1.5s"),
        ("1m30s", 90_000_000_000, "1m30s"),
        ("500us", 500_000, "500us"),
        ("1.25µs", 1_250, "1.25us"),
        ("7ns", 7, "7ns"),
        ("1h", 3_600_000_000_000, "1h"),
        ("90m", 5_400_000_000_000, "1h30m"),
        (" .5s ", 500_000_000, "500ms"),
    ] {
        let duration = HumanDuration(Duration::from_nanos(nanos));
        assert_eq!(text.parse(), Ok(duration), "{text}");
        assert_eq!(duration.to_string(), printed);
    }
    assert_eq!("10".parse::<HumanDuration>().unwrap_err(), "`10` needs a unit, as in 10s or 10ms");
    assert_eq!(
        "1m5".parse::<HumanDuration>().unwrap_err(),
        "`1m5` needs a unit, as in 1m5s or 1m5ms"
    );
    for text in ["", "s", "-1s", "1d", "1.2.3s", ".s", "1 s", "99999999999999999999h", "soon"] {
        let message = text.parse::<HumanDuration>().unwrap_err();
        assert!(message.contains("is not a duration"), "{text}: {message}");
    }
    assert!("5124095h5124095h".parse::<HumanDuration>().unwrap_err().contains("too long"));
}

#[test]
fn sizes() {
    for (text, bytes, printed) in [
        ("0", 0, "0"),
        ("4096", 4096, "4KiB"),
        ("64MiB", 64 << 20, "64MiB"),
        ("3.5MiB", 3_670_016, "3.5MiB"),
        ("512kib", 512 << 10, "512KiB"),
        ("1 GB", 1_000_000_000, "1GB"),
        ("4.5MB", 4_500_000, "4.5MB"),
        ("1001B", 1001, "1001"),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        assert_eq!(ByteSize(bytes).to_string(), printed);
    }
    for text in ["", "MiB", "-1", "1.5.5MB", "5 apples", "99999999TiB", "."] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn component_ids() {
    for text in ["otlp_grpc", "otlp/backup", "file/a/b", "x/ü.1"] {
        assert_eq!(text.parse::<ComponentId>().unwrap().to_string(), text);
    }
    for text in ["", "/a", "a/", "a b", "1a", "a/b c", "ä"] {
        assert!(text.parse::<ComponentId>().is_err(), "{text}");
    }
}

#[test]
fn secrets_do_not_show() {
    let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
    assert_eq!(secret.expose(), "hunter2");
    let json = serde_json::to_string(&secret).unwrap();
    assert_eq!(format!("{secret} {secret:?} {json}"), "[redacted] [redacted] \"[redacted]\"");
}

proptest! {
    #[test]
    fn printed_values_parse_to_the_same_value(value: u64) {
        let duration = HumanDuration(Duration::from_nanos(value));
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        prop_assert_eq!(ByteSize(value).to_string().parse(), Ok(ByteSize(value)));
    }

    #[test]
    fn no_text_panics(text in "[0-9.a-zµ]{0,30}|.{0,20}") {
        let _ = text.parse::<HumanDuration>();
        let _ = text.parse::<ByteSize>();
        let _ = text.parse::<ComponentId>();
    }
}
