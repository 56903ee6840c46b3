"""Mutual TLS, which is required as soon as the control channel leaves this host."""

from __future__ import annotations

import pathlib
import ssl
import stat
from dataclasses import dataclass

from dora_nb.errors import DocumentError, InputError
from dora_nb.executor.control.address import is_loopback


@dataclass(frozen=True)
class Tls:
    """Certificates of one side, and who vouches for the other's.

    Attributes
    ----------
    cert, key
        Certificate (chain) and private key of this side, PEM. The coordinator's certificate must name the host that
        workers connect to.
    ca
        Certificate of the authority that signed both sides', PEM. Make one for this purpose alone.
    """

    cert: pathlib.Path
    key: pathlib.Path
    ca: pathlib.Path

    def context(self, *, server: bool) -> ssl.SSLContext:
        """TLS 1.3 or newer, in which both sides show a certificate of the authority.

        Raises
        ------
        InputError
            If others can read the private key.
        DocumentError
            If a file cannot be read or is none of what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = not server
        for path in (self.cert, self.key, self.ca):
            if not path.is_file():
                raise DocumentError(path, "there is no such file")
        if stat.S_IMODE(self.key.stat().st_mode) & 0o077:
            raise InputError("tls_key", str(self.key), f"a file that nobody else can read: chmod 600 {self.key}")
        try:
            context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as error:
            raise DocumentError(self.cert, f"is no PEM certificate of the key {self.key}: {error}") from None
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, OSError) as error:
            raise DocumentError(self.ca, f"is no PEM certificate: {error}") from None
        return context


def check_tls(field: str, number: str, tls: Tls | None) -> None:
    """Refuse to leave this host without mutual TLS.

    Raises
    ------
    InputError
        If the address is not loopback and there are no certificates.
    """
    if tls is None and not is_loopback(number):
        raise InputError(
            field,
            number,
            "a loopback address such as 127.0.0.1, or certificates for mutual TLS (--tls-cert, --tls-key, --tls-ca)",
        )
