//! The contracts of [`RecoveryStore`], [`ReplicaWriter`](crate::ReplicaWriter),
//! [`Recovery`](crate::Recovery) and [`Maintenance`].

mod access;
mod chunks;
mod collecting;
mod commits;
mod comparison;
mod content;
mod healing;
mod lifecycle;
mod protection;
mod random;
mod rig;
mod upkeep;

use std::sync::Arc;

use crate::{Clock, Maintenance, ManualClock, RecoveryPoint, RecoveryStore, Timestamp};
use rig::Rig;

/// What the suite checks: a vault with its maintenance.
pub trait StoreUnderTest: RecoveryStore + Maintenance {}

impl<S: RecoveryStore + Maintenance + ?Sized> StoreUnderTest for S {}

/// Runs cases, each on a fresh store.
macro_rules! run {
    ($make:ident, $($case:path),+ $(,)?) => {
        $(
            tracing::debug!(case = stringify!($case), "checking a recovery store");
            Box::pin($case(&mut Rig::new($make().await))).await;
        )+
    };
}

/// Checks a recovery store: every clause by a case of its own, then sequences
/// of operations by a few fixed seeds.
///
/// `make` gives an empty store at each call.
///
/// # Panics
/// At the first broken clause, naming it.
pub async fn recovery_store(make: impl AsyncFn() -> Arc<dyn StoreUnderTest>) {
    run!(
        make,
        commits::a_fresh_store_holds_nothing,
        commits::an_initial_becomes_visible_by_its_commit,
        commits::what_the_agent_said_is_kept,
        commits::a_group_commits_together,
        commits::a_group_with_an_unknown_member_changes_nothing,
        commits::a_doubt_is_not_committed_over,
        commits::committing_again_gives_the_same_point,
        commits::points_are_ordered_by_commit_not_by_time,
        lifecycle::an_interrupted_synchronization_continues,
        lifecycle::a_suspended_synchronization_continues,
        lifecycle::another_kind_starts_over,
        lifecycle::verifying_starts_over,
        lifecycle::a_synchronization_stays_on_its_snapshot,
        lifecycle::an_abort_leaves_the_replica_as_it_was,
        lifecycle::a_second_begin_gives_up_the_first,
        lifecycle::a_begin_needs_a_known_base,
        content::empty_and_wholly_empty_images,
        content::tiny_extents_lie_over_old_data,
        content::unreadable_blocks_are_recorded_and_healed,
        content::images_shrink_and_grow,
        content::images_come_and_go,
        content::regions_are_written_concurrently,
        content::the_same_update_twice_is_once,
        content::an_old_point_can_be_a_base,
        chunks::a_missing_chunk_is_refused_and_nothing_changes,
        chunks::needed_answers_from_the_own_replica,
        chunks::others_chunks_can_not_be_named,
        chunks::a_shared_domain_names_others_chunks,
        chunks::bad_updates_are_refused_and_nothing_changes,
        comparison::slices_tell_the_replica,
        comparison::slices_within_are_those_that_touch,
        comparison::block_digests_tell_the_replica,
        comparison::equal_points_do_not_differ,
        comparison::differences_are_all_told,
        upkeep::expired_points_are_gone,
        upkeep::what_must_stay_does_not_expire,
        upkeep::marks_are_kept,
        upkeep::states_are_kept,
        upkeep::statistics_count,
        access::grants_are_kept,
        access::the_audit_is_kept_and_bounded,
        protection::a_protection_is_kept_and_never_shortened,
        protection::what_is_too_young_does_not_expire,
        protection::what_expired_comes_back,
        collecting::what_is_whole_verifies,
        collecting::what_nobody_needs_goes,
        collecting::what_went_can_be_stored_again,
        collecting::who_reads_can_read_on,
        collecting::what_is_being_written_stays,
        collecting::what_was_suspended_stays,
    );
    for seed in 1..=6 {
        recovery_store_by_seed(&make, seed).await;
    }
}

/// Checks a recovery store by a random sequence of operations against plain
/// images: edits, interruptions, aborts, group commits, resizing, expiry,
/// marks. The same seed gives the same sequence.
///
/// # Panics
/// At the first surprise; the seed is printed before.
pub async fn recovery_store_by_seed(make: impl AsyncFn() -> Arc<dyn StoreUnderTest>, seed: u64) {
    Box::pin(random::sequence(
        &mut Rig::with_seed(make().await, seed),
        seed,
    ))
    .await;
}

/// Checks that points age by the vault's time: a minimum retention and an undo
/// window end when they should, whatever becomes of the clock meanwhile.
///
/// `make` gives an empty store that goes by this clock.
///
/// # Panics
/// At the first broken clause, naming it.
pub async fn recovery_store_ages(make: impl AsyncFn(Arc<dyn Clock>) -> Arc<dyn StoreUnderTest>) {
    macro_rules! run {
        ($($case:path),+ $(,)?) => {
            $(
                tracing::debug!(case = stringify!($case), "checking a recovery store");
                let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
                let store = make(Arc::clone(&clock) as _).await;
                Box::pin($case(&mut Rig::new(store), &clock)).await;
            )+
        };
    }
    run!(
        protection::a_window_ends_and_space_comes_back,
        protection::retention_ends_by_the_vaults_time,
        protection::a_clock_set_forward_ends_nothing,
        protection::a_clock_set_back_makes_nothing_old,
    );
}

/// Checks that a verifying check heals damage: of the replica's head and, through the
/// chunks that they share, of its older points.
///
/// `make` gives an empty store; `damage` makes unreadable all chunks that it
/// holds of the point's images by then.
///
/// # Panics
/// At the first broken clause, naming it.
pub async fn recovery_store_heals(
    make: impl AsyncFn() -> Arc<dyn StoreUnderTest>,
    damage: impl AsyncFn(&RecoveryPoint),
) {
    let rig = &mut Rig::new(make().await);
    Box::pin(healing::a_check_heals_damage(rig, &damage)).await;
}
