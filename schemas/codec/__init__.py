"""The columnar codec: chunk of JSON bytes → int64 columns and rejects, and back, compiled from the pydantic models."""

from schemas.codec.decode import Batch, Decoder, Rows, compile_decoder
from schemas.codec.encode import Encoder, compile_encoder

__all__ = ["Batch", "Decoder", "Encoder", "Rows", "compile_decoder", "compile_encoder"]
