import hashlib
import json

from raylib.runtime.provenance import environment, git_commit, sha256


def test_a_run_record_names_versions_and_is_json():
    record = json.loads(json.dumps(environment(("numpy",))))
    import numpy as np

    assert record["versions"]["numpy"] == np.__version__
    assert record["git_commit"] == git_commit()


def test_the_hash_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
