//! Prices as they are written, and what is exact about sums.

use backstop_core::ErrorKind;
use proptest::prelude::*;

use super::*;

const LIST: &str = r#"{
    "currency": "USD",
    "per_1000_writes": 0.005,
    "per_1000_reads": 0.0004,
    "per_gb_received": 0.09,
    "per_gb_month": 0.023,
    "gigabyte": 1073741824
}"#;

fn price(text: &str) -> Price {
    serde_json::from_str(text).unwrap()
}

fn requests(writes: u64, reads: u64) -> Requests {
    Requests {
        puts: writes,
        gets: reads,
        ..Requests::default()
    }
}

#[test]
fn a_list_prices_what_was_asked_and_what_is_stored() {
    let list = PriceList::parse(LIST).unwrap();
    let mut asked = requests(3, 7);
    (asked.uploads, asked.parts, asked.lists, asked.copies) = (10, 20, 30, 40);
    asked.heads = 5;
    asked.deletes = 1_000_000;
    // 103 writes at 0.000005, 12 reads at 0.0000004.
    assert_eq!(list.of_requests(&asked).to_string(), "0.000520");
    assert_eq!(format!("{:.9}", list.of_requests(&asked)), "0.000519800");
    asked.bytes_received = 10 << 30;
    asked.bytes_sent = 1 << 50;
    assert_eq!(format!("{:.7}", list.of_requests(&asked)), "0.9005198");
    let stored = list.of_stored(ByteCount(1 << 40));
    assert_eq!(format!("{stored:.3}"), "23.552");
    assert_eq!(serde_json::to_value(stored).unwrap(), "23.552000");
}

#[test]
fn halves_are_rounded_up_and_nothing_drifts() {
    assert_eq!(format!("{:.1}", Amount(ONE / 20)), "0.1");
    assert_eq!(format!("{:.1}", Amount(ONE / 20 - 1)), "0.0");
    assert_eq!(format!("{:.0}", Amount(ONE / 2)), "1");
    assert_eq!(format!("{:.18}", Amount(1)), "0.000000000000000001");
    assert_eq!(format!("{:.0}", Amount(ONE * 3 - 1)), "3");
    // A tenth, ten times, is one; as binary fractions it is not.
    let tenth = per_thousand(1000, price("0.1"));
    let ten: Amount = std::iter::repeat_n(tenth, 10).sum();
    assert_eq!(ten, Amount(ONE));
}

#[test]
fn what_is_no_price_list_is_told_by_what_is_wrong() {
    for (from, to, says) in [
        ("0.005", "-0.005", "not -0.005"),
        ("0.005", "10001", "from 0 to 10000"),
        ("0.005", "\"0.005\"", "invalid type: string"),
        ("0.005", "NaN", "expected"),
        ("0.005", "0.0000000001", "at most 9 places"),
        (
            "per_1000_writes",
            "per_1000_puts",
            "unknown field `per_1000_puts`",
        ),
        (
            "\"per_1000_reads\": 0.0004,",
            "",
            "missing field `per_1000_reads`",
        ),
        ("1073741824", "1000", "not 1000"),
        ("USD", "USD\", \"currency\": \"EUR", "duplicate field"),
        ("}", "", "EOF"),
    ] {
        let text = LIST.replace(from, to);
        assert_ne!(text, LIST);
        let error = PriceList::parse(&text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(says), "{error}");
    }
}

fn asked() -> impl Strategy<Value = Requests> {
    (0u64..1 << 40, 0u64..1 << 40, 0u64..1 << 50).prop_map(|(writes, reads, bytes)| Requests {
        bytes_received: bytes,
        ..requests(writes, reads)
    })
}

proptest! {
    #[test]
    fn a_price_is_what_was_written(whole in 0u32..HIGHEST, places in 0u32..NANOS) {
        let text = format!("{whole}.{places:09}");
        let nanos = u64::from(whole) * u64::from(NANOS) + u64::from(places);
        prop_assert_eq!(price(&text).nanos, nanos);
    }

    #[test]
    fn a_sum_costs_what_its_parts_cost(a in asked(), b in asked(), nanos in 0u64..1_000_000_000) {
        let mut list = PriceList::parse(LIST).unwrap();
        list.per_1000_writes = Price { nanos };
        list.gigabyte = Gigabyte::Decimal;
        let mut sum = a;
        sum += b;
        let mut amounts = list.of_requests(&a);
        amounts += list.of_requests(&b);
        prop_assert_eq!(list.of_requests(&sum), amounts);
    }

    #[test]
    fn nothing_overflows(bytes: u64, count: u64, nanos in 0..=u64::from(HIGHEST) * u64::from(NANOS)) {
        let mut list = PriceList::parse(LIST).unwrap();
        let dear = Price { nanos };
        list.per_1000_writes = dear;
        list.per_1000_reads = dear;
        list.per_gb_received = dear;
        list.per_gb_month = dear;
        let all = Requests { bytes_received: bytes, ..requests(count, count) };
        let _ = list.of_requests(&all).to_string();
        let exact = u128::from(bytes) * u128::from(nanos);
        let told = list.of_stored(ByteCount(bytes)).0 / 1_000_000_000;
        prop_assert!(told.abs_diff(exact >> 30) <= 1);
    }
}
