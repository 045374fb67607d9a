//! `stats --cost`: what was asked of the store, by whom, and what that costs.

use serde_json::Value;

use crate::lab::Lab;

const PRICES: &str = r#"{
    "currency": "XTS",
    "per_1000_writes": 1000,
    "per_1000_reads": 10,
    "per_gb_month": 1000
}"#;

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or(0)
}

#[test]
fn what_a_vault_costs_is_told_by_month_and_operation() {
    let lab = Lab::with_point();
    lab.write("prices.json", PRICES);
    let report = lab.json(["stats", "--cost", "--prices", "prices.json"]);
    assert_eq!(report["currency"], "XTS");
    let month = &report["months"][0];
    let operations = report["operations"].as_array().unwrap();
    let of = |name: &str| operations.iter().find(|each| each["operation"] == name);
    let synchronized = of("synchronize").unwrap();
    // A pack of data and one of maps, and the log that commits them.
    assert!(number(synchronized, "puts") >= 3, "{synchronized}");
    assert!(number(synchronized, "bytes_sent") > 0);
    assert!(number(of("open").unwrap(), "gets") > 0);
    // A write costs one, a read a hundredth.
    let writes = ["puts", "uploads", "parts", "lists", "copies"];
    let writes: u64 = writes.iter().map(|kind| number(month, kind)).sum();
    let reads = number(month, "gets") + number(month, "heads");
    let cost = format!("{}.{:02}0000", writes + reads / 100, reads % 100);
    assert_eq!(month["cost"], *cost);
    let stored = report["stored"].as_object().unwrap();
    let bytes: u64 = stored.values().map(|class| number(class, "bytes")).sum();
    let told: f64 = report["stored_cost_per_month"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (told - bytes as f64 / 1e6).abs() < 1e-5,
        "{told} for {bytes}"
    );
    for kind in ["data-packs", "map-packs", "catalog", "other"] {
        assert!(number(&stored[kind], "objects") > 0, "{kind}");
    }
    assert!(report["this_run"]["open"]["catalog"].is_object());
    // Without prices, and for people.
    let plain = lab.json(["stats", "--cost"]);
    assert_eq!(plain["currency"], Value::Null);
    assert_eq!(plain["months"][0]["cost"], Value::Null);
    let told = lab.run(["--usage", "stats", "--cost"]).expect(0);
    told.says(&["asked of the store: "]);
}

#[test]
fn a_price_list_that_is_none_is_refused_by_name() {
    let lab = Lab::with_vault();
    for (text, says) in [
        (PRICES.replace("1000,", "-1,"), "not -1"),
        (PRICES.replace("1000,", "\"dear\","), "invalid type"),
        (
            PRICES.replace("currency", "curency"),
            "unknown field `curency`",
        ),
        (String::new(), "EOF"),
    ] {
        lab.write("prices.json", text);
        let run = lab.run(["stats", "--cost", "--prices", "prices.json"]);
        run.expect(3).says(&["prices.json", "price list", says]);
    }
    let run = lab.run(["stats", "--cost", "--prices", "nowhere.json"]);
    run.expect(4).says(&["nowhere.json"]);
    lab.run(["stats", "--prices", "prices.json"]).expect(2);
}

/// Those in the documentation can be read.
#[test]
fn the_example_price_lists_are_price_lists() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/prices");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        backstop::PriceList::parse(&text).unwrap();
        count += 1;
    }
    assert!(count >= 2);
}
