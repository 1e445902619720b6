"""Upload to the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vader.errors import HubError
from vader.sharing.folder import write_folder


def push(run: Path, name: str, *, licence: str | None = None, private: bool = False) -> str:
    """Upload a run's adapter with a model card; the repository is made if there is none.

    Args:
        run: the run folder.
        name: ``owner/name`` of the repository.
        licence: identifier of the adapter's licence, such as ``apache-2.0``.
        private: make a new repository private.

    Returns:
        The repository's address.

    Raises:
        HubError: the hub refuses, or cannot be reached.
        RunFolderError: see :func:`vader.sharing.write_folder`; as are WeightsError and SpecError.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(run, name, Path(temporary) / "shared", licence)
        try:
            hub = HfApi()
            made = hub.create_repo(name, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=made.repo_id, folder_path=folder, commit_message="Adapter and model card, written by vader"
            )
        except (OSError, ValueError) as error:  # those of the hub's client are of these kinds
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise HubError(
                f"cannot push to {name!r}: {said[0].rstrip('.')}. Log in with `hf auth login` and a token that may "
                "write, and check the name; --dry-run writes the folder without the hub."
            ) from error
    return str(made)
