//! A program's configuration file: read whole, replaced at once, so that nobody ever sees half of it.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use tempfile::Builder;

use crate::failure::Failure;

/// For the owner alone: what holds a token.
const PRIVATE: u32 = 0o600;
/// As programs make such files themselves.
const ORDINARY: u32 = 0o644;

/// `None`: there is no such file.
pub(super) fn read(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(format!("{} cannot be read: {error}", file.display()))),
    }
}

/// Keeps the permissions of a file that was there; a new one that holds a token is for its owner alone.
pub(super) fn replace(file: &Path, text: &str, holds_token: bool) -> Result<(), Failure> {
    write(file, text, holds_token)
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display())))
}

fn write(file: &Path, text: &str, holds_token: bool) -> std::io::Result<()> {
    // A link, as people have who keep their settings elsewhere, stays a link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = if holds_token { PRIVATE } else { ORDINARY };
    let mode = fs::metadata(&file).map_or(new, |metadata| metadata.permissions().mode());
    let mut draft =
        Builder::new().prefix(".guildhall-").permissions(fs::Permissions::from_mode(PRIVATE)).tempfile_in(folder)?;
    draft.write_all(text.as_bytes())?;
    draft.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    draft.as_file().sync_all()?;
    draft.persist(&file)?;
    Ok(())
}

pub(super) fn others_can_read(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_with_a_token_is_for_its_owner_alone_and_an_old_one_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("deep/er/new.json");
        replace(&new, "{}", true).unwrap();
        assert_eq!((mode(&new), others_can_read(&new)), (0o600, false));

        let old = folder.path().join("old.json");
        fs::write(&old, "x").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&old, "{}", true).unwrap();
        assert_eq!((mode(&old), others_can_read(&old)), (0o640, true));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a draft was left behind");
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
        fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "{\"a\":1}", false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&real).unwrap().as_deref(), Some("{\"a\":1}"));
    }
}
