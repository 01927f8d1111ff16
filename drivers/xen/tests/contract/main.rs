//! The driver on a real Xen, by the stories that all hypervisors keep to, and by some of its own.
//!
//! A program to be run in dom0, as root, with nothing of Xenoslice running beside it. Needs a guest that prints
//! `$XENO_LAB_READY` (`lab-guest: tick`) when it is up: kernel and initramfs `$XENO_LAB_KERNEL`, `$XENO_LAB_INITRD` (the laboratory's own if not
//! given), and the hotplug script where xl looks for it. What is missing is an error, so that a green run means that
//! guests ran.
//!
//! The stories of moves are about two nodes: the same program answers in the other dom0 ([`far`]).

mod dom0;
mod far;
mod moves;

use std::time::{Duration, Instant};

use xeno_model::id::Digest;
use xeno_model::observed::DomainState;
use xeno_reconciler::contract::{STORIES, World as _, run};
use xeno_reconciler::ports::{Grace, Hypervisor as _};

use crate::dom0::{Dom0, PATIENCE, until};

/// One after the other: there is one dom0. `XENO_LAB_STORY` names one alone.
#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "measurements, for those who ask with --nocapture"
)]
async fn xen_keeps_the_contract() {
    let wanted = std::env::var("XENO_LAB_STORY").ok();
    for story in STORIES
        .into_iter()
        .filter(|story| wanted.as_deref().is_none_or(|wanted| *story == wanted))
    {
        let start = Instant::now();
        run(story, &mut Dom0::new()).await;
        println!("{story}: {:.1} s", start.elapsed().as_secs_f64());
    }
    if wanted.is_none() {
        crashes().await;
        println!("crashes");
    }
}

/// What an agent leaves that dies at any step of a start, the next look can tell and the next call can settle.
async fn crashes() {
    let mut world = Dom0::new();
    let spec = world.spec("web/0");
    let sliver = &spec.sliver;

    // Dies right after it has asked for the domain: xl goes on, and whoever comes next waits for it.
    let begun = tokio::time::timeout(Duration::from_secs(1), world.driver.boot(&spec)).await;
    assert!(begun.is_err(), "a domain is not built within a second here");
    world.restart();
    let until_whole = Instant::now() + PATIENCE;
    while let Err(error) = world.driver.boot(&spec).await {
        assert!(Instant::now() < until_whole, "{error}");
        match world
            .driver
            .observe()
            .await
            .unwrap()
            .ours
            .get(sliver)
            .map(|domain| domain.state)
        {
            // Built to its end, and never noted as whole.
            Some(DomainState::Crashed) if !error.what.contains("at work") => {
                world.driver.shutdown(sliver, Grace { ms: 0 }).await.unwrap();
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    let seen = world.driver.observe().await.unwrap();
    assert_eq!(seen.ours[sliver].state, DomainState::Running);
    world.settle(&spec).await;

    // Dies while the memory is being stored: xl goes on, and the guest is found standing and whole.
    let begun = tokio::time::timeout(Duration::from_millis(2500), world.driver.suspend(sliver)).await;
    assert!(begun.is_err(), "memory is not stored within seconds here");
    world.restart();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = world.driver.suspend(sliver).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world
        .driver
        .seal_image(sliver, &Digest::of(b"a disk"))
        .await
        .unwrap();

    // Dies while it is loaded: the image stays, and what was loaded is no domain that could go on.
    // Its end is seconds after its domain is there, however fast the machine is.
    let loads = until("its domain", || world.domid("xeno.web-0").is_some());
    tokio::select! {
        biased;
        () = loads => {}
        ended = world.driver.resume(&spec) => panic!("it has ended before its domain was seen: {ended:?}"),
    }
    world.restart();
    let seen = world.driver.observe().await.unwrap();
    assert!(seen.images.contains_key(sliver), "the image is still there");
    assert!(
        seen.ours
            .get(sliver)
            .is_none_or(|domain| domain.state == DomainState::Crashed)
    );
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = world.driver.resume(&spec).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let seen = world.driver.observe().await.unwrap();
    assert_eq!(
        (seen.ours[sliver].state, seen.images.len()),
        (DomainState::Running, 0)
    );
    world.driver.shutdown(sliver, Grace { ms: 0 }).await.unwrap();
}
