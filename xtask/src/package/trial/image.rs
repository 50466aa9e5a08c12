//! The disk that the machine starts from: made once by `image.sh`, kept as long as that stays as it is.

use crate::{
    kernels::apt::archive,
    shell::{as_root, run, say},
};
use anyhow::{Context as _, Result};
use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

/// How it is made.
const RECIPE: &str = include_str!("image.sh");

/// A disk, a kernel, and what is on the disk.
pub(super) struct Image {
    folder: PathBuf,
}

impl Image {
    /// The one that was made before, or a new one, which takes two or three minutes and root.
    pub(super) fn get(vm: &Path) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        RECIPE.hash(&mut hasher);
        let image = Image { folder: vm.join(format!("image-{:016x}", hasher.finish())) };
        if image.file("disk").exists() {
            return Ok(image);
        }
        say("package", "making the disk of the machine, once: two or three minutes");
        for entry in fs::read_dir(vm).with_context(|| format!("reading {}", vm.display()))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("image-") {
                run(as_root("rm", "removing an older disk")?.arg("-rf").arg(entry.path()))?;
            }
        }
        fs::create_dir(&image.folder).with_context(|| format!("making {}", image.folder.display()))?;
        let recipe = image.file("image.sh");
        fs::write(&recipe, RECIPE).with_context(|| format!("writing {}", recipe.display()))?;
        let mut command = as_root("unshare", "making a disk of Debian's packages")?;
        run(command
            .args(["--mount", "--propagation", "private", "sh"])
            .arg(&recipe)
            .arg(&image.folder)
            .arg(archive("/debian")?))?;
        Ok(image)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Packages and versions, one a line.
    pub(super) fn versions(&self) -> Result<String> {
        let file = self.file("versions");
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }
}
