//! What a limiter lets pass, by the timers' paused clock.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::sync::atomic::{AtomicU64, Ordering};

use backstop_core::{ByteCount, Timestamp};
use futures::FutureExt;
use tokio::time::timeout;

use super::super::FixedOffset;
use super::*;

/// Follows the timers from an instant on.
#[derive(Debug)]
struct Following(Timestamp, Instant);

impl Clock for Following {
    fn now(&self) -> Timestamp {
        self.0.after(now().duration_since(self.1))
    }
}

/// 2026-12-07T00:00:00Z, a Monday, and so many seconds.
fn limiter(schedule: &str, seconds: u64) -> Arc<Limiter> {
    let start = Timestamp(1_796_601_600_000).after(Duration::from_secs(seconds));
    let clock = Following(start, now());
    let schedule = schedule.parse().unwrap();
    let local = Arc::new(FixedOffset::UTC);
    Arc::new(Limiter::new(schedule, local, Arc::new(clock)))
}

/// Has four tasks send messages of random length without end; gives how many
/// bytes have passed.
fn flood(limiter: &Arc<Limiter>, longest: usize) -> Arc<AtomicU64> {
    let passed = Arc::<AtomicU64>::default();
    for seed in 0..4 {
        let (limiter, passed) = (Arc::clone(limiter), Arc::clone(&passed));
        let mut random = longest as u64 ^ seed;
        tokio::spawn(async move {
            loop {
                // Knuth's generator will do.
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let length = 1 + usize::try_from(random >> 33).unwrap() % longest;
                limiter.pass(length, length).await;
                passed.fetch_add(length as u64, Ordering::SeqCst);
            }
        });
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_held_over_a_minute() {
    for longest in [1000, 300_000] {
        let limiter = limiter("default 2M", 0);
        let passed = flood(&limiter, longest);
        let mut before = 0;
        for second in 1..=60 {
            sleep(Duration::from_secs(1)).await;
            let now = passed.load(Ordering::SeqCst);
            let most = second * 2_000_000 + 200_000;
            assert!(now <= most, "{longest}: {now} after {second} s");
            let least = 2_000_000 - longest as u64 * 2;
            assert!(now - before >= least, "{longest}: in second {second}");
            before = now;
        }
        let share = before as f64 / 120_000_000.0;
        assert!((0.98..=1.02).contains(&share), "{longest}: {share}");
    }
}

/// One message longer than what comes in a second waits for itself.
#[tokio::test(start_paused = true)]
async fn long_messages_come_at_the_rate_too() {
    let limiter = limiter("default 2M", 0);
    let start = now();
    for number in 1..=30 {
        limiter.pass(4 << 20, 4 << 20).await;
        let due = (f64::from(number) * f64::from(4 << 20) - 200_000.0) / 2e6;
        let late = start.elapsed().as_secs_f64() - due;
        assert!((0.0..0.002).contains(&late), "{number}: {late}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_nothing_waits_nor_is_owed() {
    let limiter = limiter("mon 01:00-02:00 1M", 3590);
    let start = now();
    for _ in 0..100 {
        limiter.pass(16 << 20, 16 << 20).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    sleep(Duration::from_secs(11)).await;
    limiter.pass(1_100_000, 1_100_000).await;
    let passed = start.elapsed();
    assert!(passed >= Duration::from_secs(12) && passed < Duration::from_millis(12_010));
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_changes_holds_within_a_second() {
    // Up, down, and to no limit, ten seconds after the beginning.
    for (before, after) in [("1M", "10M"), ("10M", "1M"), ("1M", "none"), ("0", "1M")] {
        let schedule = format!("default {before}; mon 01:00-02:00 {after}");
        let limiter = limiter(&schedule, 3590);
        if after == "none" {
            // One that would take 100 s waits when it changes.
            let start = now();
            limiter.pass(100_000_000, 100_000_000).await;
            let waited = start.elapsed();
            assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(11));
            continue;
        }
        let rate = |text: &str| {
            let schedule: BandwidthSchedule = format!("default {text}").parse().unwrap();
            schedule.default_rate().unwrap_or(ByteCount::ZERO).0
        };
        let passed = flood(&limiter, 50_000);
        sleep(Duration::from_secs(10)).await;
        let first = passed.load(Ordering::SeqCst);
        assert!(first <= rate(before) * 10 + rate(before) / 10, "{before}");
        assert!(
            first >= (rate(before) * 10).saturating_sub(50_000),
            "{before}"
        );
        sleep(Duration::from_secs(1)).await;
        let changed = passed.load(Ordering::SeqCst);
        sleep(Duration::from_secs(10)).await;
        let share = (passed.load(Ordering::SeqCst) - changed) as f64 / (rate(after) * 10) as f64;
        assert!(
            (0.98..=1.02).contains(&share),
            "{before} to {after}: {share}"
        );
    }
}

/// A message that waits for long at a low rate goes on at the higher one.
#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_new_rate() {
    let limiter = limiter("default 1K; mon 01:00-02:00 1M", 3590);
    let start = now();
    limiter.pass(4_000_000, 4_000_000).await;
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(13_900) && waited < Duration::from_millis(14_600));
}

#[tokio::test(start_paused = true)]
async fn control_messages_never_wait_and_are_counted() {
    let limiter = limiter("default 100K", 0);
    let passed = flood(&limiter, 4 << 20);
    let mut control = 0;
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        assert!(limiter.pass(5000, 0).now_or_never().is_some());
        control += 5000;
    }
    let data = passed.load(Ordering::SeqCst);
    let all = control + data;
    assert!(all <= 6_000_000 + 10_000, "{data} of data after {control}");
    assert!(
        all >= 6_000_000 - (4 << 20),
        "{data} of data after {control}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_data_passes_at_rate_zero() {
    let limiter = limiter("default 0", 0);
    assert!(limiter.pass(9, 0).now_or_never().is_some());
    let hour = Duration::from_hours(1);
    assert!(timeout(hour, limiter.pass(1, 1)).await.is_err());
}

/// And each when its own turn has come, not together with the last.
#[tokio::test(start_paused = true)]
async fn who_asks_first_goes_first() {
    let limiter = limiter("default 1M", 0);
    let start = now();
    let order = Arc::<Mutex<Vec<usize>>>::default();
    let mut tasks = Vec::new();
    for number in 0..10 {
        let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let length = if number % 2 == 0 { 2_000_000 } else { 1 };
            limiter.pass(length, length).await;
            order.lock().unwrap().push(number);
            start.elapsed().as_secs_f64()
        }));
        tokio::task::yield_now().await;
    }
    let mut due = -0.1;
    for (number, task) in tasks.into_iter().enumerate() {
        due += if number % 2 == 0 { 2.0 } else { 0.0 };
        let late = task.await.unwrap() - due;
        assert!((0.0..0.02).contains(&late), "{number}: {late}");
    }
    assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_has_taken_nothing() {
    let limiter = limiter("default 1M", 0);
    let second = Duration::from_secs(1);
    assert!(
        timeout(second, limiter.pass(60_000_000, 60_000_000))
            .await
            .is_err()
    );
    let start = now();
    limiter.pass(1_000_000, 1_000_000).await;
    assert!(start.elapsed() <= second);
}
