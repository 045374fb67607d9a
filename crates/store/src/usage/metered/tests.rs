//! The wrapper passes everything through, and counts each request once.

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{Error, GetRange, ObjectStoreExt, PutMode, integration};

use super::super::{Operation, Requests, StoreUsage};
use super::*;

fn metered(store: impl ObjectStore, prefix: &str) -> (Metered, Arc<Meter>) {
    let meter = Arc::<Meter>::default();
    let store = Metered::new(Arc::new(store), &Path::from(prefix), &meter);
    (store, meter)
}

/// What the crate of the trait asks of every implementation.
#[tokio::test]
async fn it_conforms_where_what_it_counts_does() {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    for (store, is_local) in [
        (metered(InMemory::new(), "").0, false),
        (metered(local, "").0, true),
    ] {
        integration::put_get_delete_list(&store).await;
        integration::get_opts(&store).await;
        integration::list_uses_directories_correctly(&store).await;
        integration::list_with_delimiter(&store).await;
        integration::rename_and_copy(&store).await;
        integration::copy_if_not_exists(&store).await;
        integration::copy_rename_nonexistent_object(&store).await;
        integration::stream_get(&store).await;
        integration::list_with_offset_exclusivity(&store).await;
        integration::put_opts(&store, !is_local).await;
        if !is_local {
            integration::put_get_attributes(&store).await;
            integration::multipart_out_of_order(&store).await;
            integration::multipart_race_condition(&store, true).await;
        }
    }
}

fn only(usage: &StoreUsage) -> Vec<(ObjectKind, Requests)> {
    let all = usage.iter();
    all.map(|(operation, object, requests)| {
        assert_eq!(operation, Operation::Idle);
        (object, requests)
    })
    .collect()
}

#[tokio::test]
async fn each_request_is_counted_once_and_for_what_it_is_about() {
    let (store, meter) = metered(InMemory::new(), "a/vault");
    let at = |name: &str| Path::from(format!("a/vault/{name}"));
    let mut before = StoreUsage::default();
    let mut asked = |object: ObjectKind, expected: Requests| {
        let now = meter.usage();
        assert_eq!(only(&now.since(&before)), [(object, expected)]);
        before = now;
    };
    let none = Requests::default();

    store
        .put(&at("packs/1.data"), vec![1; 10].into())
        .await
        .unwrap();
    let put = Requests {
        puts: 1,
        bytes_sent: 10,
        ..none
    };
    asked(ObjectKind::DataPacks, put);
    let mode = PutMode::Create.into();
    let again = store
        .put_opts(&at("packs/1.data"), vec![2; 3].into(), mode)
        .await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    asked(
        ObjectKind::DataPacks,
        Requests {
            puts: 1,
            bytes_sent: 3,
            ..none
        },
    );

    let range = store.get_range(&at("packs/1.data"), 2..6).await.unwrap();
    assert_eq!(range, [1; 4][..]);
    asked(
        ObjectKind::DataPacks,
        Requests {
            gets: 1,
            bytes_received: 4,
            ..none
        },
    );
    let options = GetOptions::new().with_range(Some(GetRange::Suffix(3)));
    let suffix = store.get_opts(&at("packs/1.data"), options).await.unwrap();
    assert_eq!(suffix.range, 7..10);
    asked(
        ObjectKind::DataPacks,
        Requests {
            gets: 1,
            bytes_received: 3,
            ..none
        },
    );
    store.get(&at("packs/2.map")).await.unwrap_err();
    asked(ObjectKind::MapPacks, Requests { gets: 1, ..none });
    assert_eq!(store.head(&at("packs/1.data")).await.unwrap().size, 10);
    asked(ObjectKind::DataPacks, Requests { heads: 1, ..none });
    let far = [0..1, 9..10];
    assert_eq!(
        store
            .get_ranges(&at("packs/1.data"), &far)
            .await
            .unwrap()
            .len(),
        2
    );
    asked(
        ObjectKind::DataPacks,
        Requests {
            gets: 1,
            bytes_received: 10,
            ..none
        },
    );

    let mut upload = store.put_multipart(&at("packs/3.map")).await.unwrap();
    upload.put_part(vec![0; 20].into()).await.unwrap();
    upload.put_part(vec![0; 5].into()).await.unwrap();
    upload.complete().await.unwrap();
    let parts = Requests {
        uploads: 2,
        parts: 2,
        bytes_sent: 25,
        ..none
    };
    asked(ObjectKind::MapPacks, parts);
    let mut upload = store.put_multipart(&at("packs/4.map")).await.unwrap();
    upload.abort().await.unwrap();
    asked(
        ObjectKind::MapPacks,
        Requests {
            uploads: 1,
            deletes: 1,
            ..none
        },
    );
    assert!(store.head(&at("packs/4.map")).await.is_err());
    asked(ObjectKind::MapPacks, Requests { heads: 1, ..none });

    for number in 0..2001 {
        let name = at(&format!("db/wal/{number}"));
        store.put(&name, PutPayload::new()).await.unwrap();
    }
    asked(ObjectKind::Catalog, Requests { puts: 2001, ..none });
    let listed: Vec<_> = store.list(Some(&at("db"))).try_collect().await.unwrap();
    assert_eq!(listed.len(), 2001);
    asked(ObjectKind::Catalog, Requests { lists: 3, ..none });
    let listed = store
        .list_with_delimiter(Some(&at("db/wal")))
        .await
        .unwrap();
    assert_eq!(listed.objects.len(), 2001);
    asked(ObjectKind::Catalog, Requests { lists: 3, ..none });
    let offset = at("db/wal/2");
    let listed = store.list_with_offset(Some(&at("db")), &offset);
    // Those that follow 2 as text: 20 and on, 200 and on, 2000; 3 to 9 and on.
    assert_eq!(listed.try_collect::<Vec<_>>().await.unwrap().len(), 888);
    asked(ObjectKind::Catalog, Requests { lists: 1, ..none });

    store
        .copy(&at("db/wal/1"), &at("readers/1.json"))
        .await
        .unwrap();
    asked(ObjectKind::Readers, Requests { copies: 1, ..none });
    store.delete(&at("readers/1.json")).await.unwrap();
    asked(ObjectKind::Readers, Requests { deletes: 1, ..none });
    for other in ["vault.json", "lease.json", "keys/a.json", "packs/x.odd"] {
        store.put(&at(other), vec![1].into()).await.unwrap();
        asked(
            ObjectKind::Other,
            Requests {
                puts: 1,
                bytes_sent: 1,
                ..none
            },
        );
    }
}
