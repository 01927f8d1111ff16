//! Content of templates goes out as the store has it mapped.

use std::fs;
use std::sync::Arc;

use cowfs::import::Source;
use cowfs::layer::Layer;
use cowfs::service::{FileService, Stability};
use cowfs::stack::{StackSpec, open};
use cowfs::template::{Store, TemplateOptions};
use cowfs::writable::{Options, Writable};

use crate::support::fixture_with;

/// A little more than two READs of a megabyte, and no multiple of four.
const LEN: usize = (2 << 20) + 4099;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_reads_bring_what_the_template_has() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0_u32..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(LEN)
        .collect();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("big"), &content).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let report = store
        .import(&Source::Directory(tree), &TemplateOptions::default(), &mut |_| {})
        .unwrap();
    let writable = dir.path().join("writable");
    Writable::create_if_missing(&writable).unwrap();
    let layer: Arc<dyn Layer> = store.layer(&report.digest).unwrap();
    let stack = open(StackSpec {
        layers: vec![layer],
        writable: Some(Writable::open(&writable, 1, Options::default()).unwrap()),
        content: store.contents(),
        read_only_key: [0; 32],
    });
    let stack = stack.unwrap();
    let fixture = fixture_with(Arc::clone(&stack) as Arc<dyn FileService>).await;
    let (client, root) = fixture.mounted().await;
    let file = client.lookup(&root, b"big").await.unwrap().handle;
    let read = async |offset: usize, count: u32| client.read(&file, offset as u64, count).await.unwrap();
    let check = async |offset: usize, count: u32| {
        let (bytes, eof) = read(offset, count).await;
        let end = (offset + count as usize).min(LEN);
        assert_eq!(bytes.len(), end - offset, "{count} at {offset}");
        assert!(bytes == content[offset..end], "{count} at {offset}");
        assert_eq!(eof, end == LEN, "{count} at {offset}");
    };
    for (offset, count) in [
        (0, 1 << 20),
        (1 << 20, 1 << 20),
        // To the end, and so with padding; and across nothing in particular.
        (2 << 20, 1 << 20),
        (LEN - 70_001, 200_000),
        (3, 100_001),
        (12_345, 70_000),
        (1 << 20, 4096),
    ] {
        check(offset, count).await;
    }
    // Many at once come whole, in whatever order.
    let many = (0..32_usize).map(|n| check(n * 50_000, 300_000));
    futures_all(many.collect()).await;
    // Changed by the guest, it is another file's business.
    let lent = |stack: &dyn FileService| {
        let (handle, caller) = (stack.root().handle, cowfs::service::Caller::root());
        let file = stack.lookup(&caller, &handle, b"big").unwrap().0.handle;
        stack.read_lent(&caller, &file, 0, 1 << 20).is_some()
    };
    assert!(lent(&*stack));
    client
        .write(&file, 5, b"guest", Stability::FileSync)
        .await
        .unwrap();
    assert!(!lent(&*stack));
    let (bytes, _) = read(0, 1 << 20).await;
    assert_eq!(&bytes[5..10], b"guest");
    assert!(bytes[10..] == content[10..1 << 20]);
}

/// Runs all of them at once.
async fn futures_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
