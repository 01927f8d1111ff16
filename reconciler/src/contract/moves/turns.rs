//! Things that happen at the same time, for stories that know no runtime.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read as _};
use std::pin::pin;
use std::task::Poll;

use super::Moving;
use crate::ports::Pipe;

/// Reads so many bytes of what comes.
pub(super) async fn read_some<W: Moving>(world: &W, from: &mut Pipe, len: usize) -> Vec<u8> {
    from.set_nonblocking(true).expect("a pipe");
    let mut bytes = vec![0; len];
    let mut read = 0;
    while read < len {
        match from.read(&mut bytes[read..]) {
            Ok(0) => panic!("it ended after {read} bytes"),
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => world.moment().await,
            Err(error) => panic!("{error}"),
        }
    }
    bytes
}

/// Waits for both.
pub(super) async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(context)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = other.as_mut().poll(context)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// Waits for one of them, and gives the other up.
pub(super) async fn first<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        if one.as_mut().poll(context).is_ready() || other.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
