//! Turns: nobody has too much, nobody waits for ever, weights count.

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn peer(number: usize) -> Arc<str> {
    format!("agent{number}").into()
}

fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

fn turns() -> Turns {
    Turns::new(ByteCount(32 * MIB)).unwrap()
}

#[test]
fn less_than_two_messages_are_too_few() {
    assert!(Turns::new(ByteCount(32 * MIB - 1)).is_err());
}

proptest! {
    #[test]
    fn the_bound_is_kept_and_everybody_is_served(
        asked in proptest::collection::vec((0usize..4, 1u64..20 * MIB, any::<bool>()), 1..60),
    ) {
        let turns = turns();
        let mut waiting = Vec::new();
        let mut held: VecDeque<Share> = VecDeque::new();
        let check = |held: &VecDeque<Share>| {
            let all: u64 = held.iter().map(|share| share.bytes).sum();
            prop_assert!(all <= 32 * MIB);
            for number in 0..4 {
                let own = held.iter().filter(|share| share.peer == peer(number));
                let own: u64 = own.map(|share| share.bytes).sum();
                prop_assert!(own <= 16 * MIB);
            }
            Ok(())
        };
        for (number, bytes, is_dropped) in asked {
            let (turns, peer) = (turns.clone(), peer(number));
            let taking = async move { turns.take(&peer, one(), bytes).await.unwrap() };
            let mut taking = Box::pin(taking);
            match taking.as_mut().now_or_never() {
                Some(share) => held.push_back(share),
                // Who goes away gives its place away.
                None if is_dropped => drop(taking),
                None => waiting.push(taking),
            }
            check(&held)?;
        }
        while !waiting.is_empty() {
            prop_assert!(held.pop_front().is_some(), "somebody waits while all is free");
            waiting.retain_mut(|taking| match taking.as_mut().now_or_never() {
                Some(share) => {
                    held.push_back(share);
                    false
                }
                None => true,
            });
            check(&held)?;
        }
        held.clear();
        prop_assert_eq!(turns.counts(), (ByteCount(0), 0));
        prop_assert!(turns.lock().peers.is_empty());
    }
}

/// Two who always want more, one with three times the weight of the other, and half
/// of all is another's.
#[test]
fn turns_go_by_weight() {
    let turns = turns();
    let others = turns.take(&peer(2), one(), 16 * MIB).now_or_never();
    assert!(others.is_some());
    let weights = [1, 3].map(|weight| NonZeroU32::new(weight).unwrap());
    let ask = |number: usize| {
        let turns = turns.clone();
        Box::pin(async move { turns.take(&peer(number), weights[number], 4 * MIB).await })
    };
    let mut waiting: Vec<_> = (0..400).map(|at| (at % 2, ask(at % 2))).collect();
    let mut held = VecDeque::new();
    let mut served = [0, 0];
    while served[0] + served[1] < 200 {
        waiting.retain_mut(|(number, taking)| match taking.as_mut().now_or_never() {
            Some(share) => {
                held.push_back(share.unwrap());
                served[*number] += 1;
                false
            }
            None => true,
        });
        held.pop_front();
    }
    assert!((145..=155).contains(&served[1]), "{served:?}");
}

/// However many have gone away, who is there gets the next turn, on a stack of any
/// size.
#[test]
fn many_may_go_away_at_once() {
    let turns = turns();
    let held = turns.take(&peer(0), one(), 16 * MIB).now_or_never();
    let mut gone: Vec<_> = (0..100_000)
        .map(|_| {
            let turns = turns.clone();
            Box::pin(async move { turns.take(&peer(0), one(), MIB).await })
        })
        .collect();
    for one in &mut gone {
        assert!(one.as_mut().now_or_never().is_none());
    }
    drop(gone);
    drop(held);
    assert_eq!(turns.counts(), (ByteCount(0), 0));
}

#[test]
fn what_is_not_needed_comes_back() {
    let turns = turns();
    let peer = peer(0);
    let taking = turns.take(&peer, one(), 16 * MIB);
    let mut share = taking.now_or_never().unwrap().unwrap();
    share.shrink(17 * MIB);
    assert_eq!(turns.counts().0, ByteCount(16 * MIB));
    share.shrink(MIB);
    assert_eq!(turns.counts().0, ByteCount(MIB));
    share.shrink(0);
    assert_eq!(turns.counts().0, ByteCount(LEAST));
    drop(share);
    assert_eq!(turns.counts().0, ByteCount(0));
}

/// One that asks for much is not passed over for ever by who asks for little.
#[test]
fn a_large_message_gets_its_turn() {
    let turns = turns();
    let take = |number: usize, bytes: u64| {
        let turns = turns.clone();
        Box::pin(async move { turns.take(&peer(number), one(), bytes).await.unwrap() })
    };
    let mut held: VecDeque<_> = (0..8)
        .map(|at| take(at % 4, 4 * MIB).now_or_never().unwrap())
        .collect();
    let mut large = take(9, 16 * MIB);
    assert!(large.as_mut().now_or_never().is_none());
    let mut small = Vec::new();
    for round in 0.. {
        assert!(round < 20, "it is passed over");
        let mut one = take(round % 4, 4 * MIB);
        if let Some(share) = one.as_mut().now_or_never() {
            held.push_back(share);
        } else {
            small.push(one);
        }
        held.pop_front();
        if large.as_mut().now_or_never().is_some() {
            return;
        }
        small.retain_mut(|one| match one.as_mut().now_or_never() {
            Some(share) => {
                held.push_back(share);
                false
            }
            None => true,
        });
    }
}
