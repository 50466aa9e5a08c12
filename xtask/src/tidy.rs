//! House rules; to come.

pub(crate) fn tidy(_workspace: &std::path::Path) -> anyhow::Result<()> {
    Ok(())
}
