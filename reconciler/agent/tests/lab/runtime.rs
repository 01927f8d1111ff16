//! Many worlds at once, each on a clock of its own that only moves when everybody in it waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One world's story, to its end.
pub(crate) fn on_a_clock<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(story)
}

/// Stories about all of `things`, as many at a time as the machine likes; the answers are in their order.
pub(crate) fn in_parallel<T: Copy + Sync, R: Send>(
    things: &[T],
    story: impl Fn(T) -> Pin<Box<dyn Future<Output = R>>> + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(things.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(thing) = things.get(i) else { return };
                    let answer = on_a_clock(story(*thing));
                    answers.lock().unwrap().push((i, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_by_key(|(i, _)| *i);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
