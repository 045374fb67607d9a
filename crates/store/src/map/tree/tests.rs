//! The tree against a plain list of regions, and two trees against each other.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstop_core::{ByteOffset, Extent, Slice, SliceContent};
use futures::TryStreamExt;
use proptest::prelude::*;

use super::*;

/// How many bytes of a region an image has.
fn length_of(region: u64, image: ByteCount) -> u32 {
    u32::try_from(RegionIndex(region).extent(image).length().0).unwrap()
}

/// Nodes in memory, as they would be stored.
#[derive(Default)]
struct MemoryNodes {
    nodes: Mutex<HashMap<ChunkDigest, Vec<u8>>>,
    lost: Mutex<HashSet<ChunkDigest>>,
    reads: AtomicUsize,
}

impl MemoryNodes {
    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl NodeSource for MemoryNodes {
    async fn get(&self, digest: &ChunkDigest) -> Result<Arc<Node>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_lost(digest) {
            return Err(Error::corrupt("a node is lost"));
        }
        Node::decode(&self.nodes.lock().unwrap()[digest]).map(Arc::new)
    }
}

#[async_trait]
impl NodeStore for MemoryNodes {
    async fn put(&self, node: Node) -> Result<ChunkDigest> {
        let bytes = node.encode();
        let digest = ChunkDigest::of(&bytes);
        self.nodes.lock().unwrap().insert(digest, bytes);
        Ok(digest)
    }

    fn lose(&self, digest: &ChunkDigest) -> bool {
        self.is_lost(digest)
    }

    fn is_lost(&self, digest: &ChunkDigest) -> bool {
        self.lost.lock().unwrap().contains(digest)
    }
}

fn leaf(number: u8, length: u32) -> RegionMap {
    let content = SliceContent::Chunk {
        digest: ChunkDigest::from_bytes([number; 32]),
        skip: 0,
    };
    let slice = |start| Slice {
        start,
        length: 100,
        content,
    };
    RegionMap::from_slices(vec![slice(0), slice(length - 100)]).unwrap()
}

const REGION: u64 = REGION_LENGTH as u64;

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u64, u8)>),
    Resize(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop::collection::vec((0u64..10_000, 0u8..5), 1..30).prop_map(Step::Write),
        1 => (1u64..10_000 * REGION).prop_map(Step::Resize),
        1 => (1u64..70 * REGION).prop_map(Step::Resize),
    ];
    prop::collection::vec(step, 1..12)
}

async fn put_leaf(nodes: &MemoryNodes, leaf: &RegionMap) -> Option<ChunkDigest> {
    Some(nodes.put(Node::Leaf(leaf.clone())).await.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_tree_is_a_list_of_regions(first_length in 1u64..9_000 * REGION, steps in steps()) {
        futures::executor::block_on(async {
            let nodes = Arc::new(MemoryNodes::default());
            let mut map = ImageMap::hole(ByteCount(first_length));
            let mut model: BTreeMap<u64, RegionMap> = BTreeMap::new();
            for step in &steps {
                let (old_map, old_model) = (map, model.clone());
                match step {
                    Step::Write(writes) => {
                        let mut leaves = BTreeMap::new();
                        for (region, number) in writes {
                            let region = region % region_count(map.length);
                            let length = length_of(region, map.length);
                            if *number == 0 || length < 200 {
                                model.remove(&region);
                                leaves.insert(region, None);
                            } else {
                                let leaf = leaf(*number, length);
                                leaves.insert(region, put_leaf(&nodes, &leaf).await);
                                model.insert(region, leaf);
                            }
                        }
                        map = map.with_leaves(&leaves, &*nodes).await.unwrap();
                    }
                    Step::Resize(length) => {
                        map = map.resized(ByteCount(*length), &*nodes).await.unwrap();
                        model.retain(|region, leaf| {
                            leaf.truncate(length_of(*region, map.length));
                            !leaf.is_hole()
                        });
                    }
                }
                for (region, expected) in &model {
                    let found = map.leaf(RegionIndex(*region), &*nodes).await.unwrap().unwrap();
                    assert_eq!(as_leaf(&nodes.get(&found).await.unwrap()).unwrap(), expected);
                }
                assert_eq!(map.root.is_none(), model.is_empty());

                // The same content gives the same tree, however it came about.
                let mut leaves = BTreeMap::new();
                for (region, leaf) in &model {
                    leaves.insert(*region, put_leaf(&nodes, leaf).await);
                }
                let fresh = ImageMap::hole(map.length).with_leaves(&leaves, &*nodes).await.unwrap();
                assert_eq!(fresh, map);

                let told: backstop_core::ExtentSet =
                    crate::map::compare::compare(old_map, map, Arc::clone(&nodes))
                        .try_collect::<Vec<_>>().await.unwrap().into_iter().collect();
                for region in old_model.keys().chain(model.keys()) {
                    let here = Extent::new(RegionIndex(*region).start(), ByteCount(REGION)).unwrap();
                    let told_here = told.within(here).next().is_some();
                    assert_eq!(told_here, old_model.get(region) != model.get(region), "region {region}");
                }
                assert!(told.end() <= ByteOffset(map.length.0.max(old_map.length.0)));
            }
        });
    }
}

#[test]
fn work_follows_the_change_and_not_the_size() {
    futures::executor::block_on(async {
        let nodes = Arc::new(MemoryNodes::default());
        let length = ByteCount(4096 * REGION);
        let mut leaves = BTreeMap::new();
        for region in 0..4096 {
            let leaf = leaf((region % 200) as u8 + 1, REGION_LENGTH);
            leaves.insert(region, put_leaf(&nodes, &leaf).await);
        }
        let map = ImageMap::hole(length)
            .with_leaves(&leaves, &*nodes)
            .await
            .unwrap();
        let before = nodes.reads();
        let changed = put_leaf(&nodes, &leaf(250, REGION_LENGTH)).await;
        let next = map
            .with_leaves(&BTreeMap::from([(1234, changed)]), &*nodes)
            .await
            .unwrap();
        assert!(nodes.reads() - before <= 2, "one node a level");
        let before = nodes.reads();
        let found: Vec<_> = crate::map::compare::compare(map, next, Arc::clone(&nodes))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(found.len(), 2);
        assert!(nodes.reads() - before <= 6, "both sides of one path");
    });
}
