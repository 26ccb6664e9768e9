"""Secrets that the service must read again are encrypted in the database, with a key that is not in it.

Fernet: AES-128-CBC and HMAC-SHA256 (https://cryptography.io/en/latest/fernet/). The key is derived from the operator's text.
"""

from base64 import urlsafe_b64encode

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.errors import TunesmithError
from app.settings import Settings

SEALED = "sealed:"
PURPOSE = b"tunesmith secrets in the database"


class WrongKey(TunesmithError):
    """A stored secret was encrypted with another TUNESMITH_SECRET_KEY. Restore that key, or create the webhook anew."""

    code = "secret_key_changed"


class Sealer:
    """Encrypts and decrypts. Without a key it leaves text as it is."""

    def __init__(self, key: str) -> None:
        derived = HKDF(SHA256(), length=32, salt=None, info=PURPOSE).derive(key.encode()) if key else None
        self._fernet = None if derived is None else Fernet(urlsafe_b64encode(derived))

    @classmethod
    def of(cls, settings: Settings) -> "Sealer":
        """With the key of the settings, or of the file that `tunesmith up` writes."""
        file = settings.secret_key_file()
        return cls(settings.secret_key or (file.read_text().strip() if file.is_file() else ""))

    def seal(self, text: str) -> str:
        """The text to store."""
        return text if self._fernet is None else SEALED + self._fernet.encrypt(text.encode()).decode()

    def open(self, stored: str) -> str:
        """The text that was sealed, or that an earlier version stored plain. Raises WrongKey."""
        if not stored.startswith(SEALED):
            return stored
        if self._fernet is None:
            raise WrongKey
        try:
            return self._fernet.decrypt(stored.removeprefix(SEALED)).decode()
        except InvalidToken as error:
            raise WrongKey from error
