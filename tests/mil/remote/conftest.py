"""What tests of URLs share."""

from remote_fixtures import bad_proxy, bucket, port

__all__ = ["bad_proxy", "bucket", "port"]
