//! Frames as bytes: a little-endian `u32` length and that many bytes. No I/O here.

/// The longest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Bytes of the length field.
pub const HEADER: usize = 4;

/// A stream of frames that cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame's body is, or would be, longer than [`MAX_BODY`].
    #[error("frame of {length} bytes, more than the {MAX_BODY} allowed")]
    Oversize {
        /// The length found or wanted, in bytes.
        length: u64,
    },
    /// A frame without a body, which can be no message.
    #[error("frame without a body")]
    Empty,
}

/// Puts the length in front of `body`.
pub fn encode(body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let length = check(body.len() as u64)?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

fn check(length: u64) -> Result<u32, FrameError> {
    if length == 0 {
        return Err(FrameError::Empty);
    }
    match u32::try_from(length) {
        Ok(short) if length <= MAX_BODY as u64 => Ok(short),
        _ => Err(FrameError::Oversize { length }),
    }
}

/// Cuts a stream of bytes into frames, however the bytes arrive.
///
/// It keeps at most one frame: never more than [`HEADER`] + [`MAX_BODY`] bytes, and never more for a body than
/// its announced length. After an error the stream has lost its boundaries, and every further call repeats it.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    header_len: usize,
    body: Vec<u8>,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes may be fed without reaching into the next frame; at least 1. Whoever reads no more than
    /// this at a time knows that descriptors received meanwhile belong to this frame.
    pub fn wanted(&self) -> usize {
        match self.body_length() {
            None => HEADER - self.header_len,
            Some(length) => length - self.body.len(),
        }
    }

    /// Whether the stream may end here: no frame has begun.
    pub const fn at_boundary(&self) -> bool {
        self.header_len == 0 && self.failed.is_none()
    }

    /// Takes bytes off the front of `input`, up to the end of a frame; returns that frame's body, or `None`
    /// when `input` is used up before.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.header_len < HEADER {
            let (head, rest) = input.split_at(input.len().min(HEADER - self.header_len));
            self.header[self.header_len..self.header_len + head.len()].copy_from_slice(head);
            self.header_len += head.len();
            *input = rest;
            if let Some(length) = self.body_length() {
                check(length as u64).inspect_err(|error| self.failed = Some(*error))?;
                self.body.reserve_exact(length);
            }
        }
        let Some(length) = self.body_length() else { return Ok(None) };
        let (part, rest) = input.split_at(input.len().min(length - self.body.len()));
        self.body.extend_from_slice(part);
        *input = rest;
        if self.body.len() < length {
            return Ok(None);
        }
        self.header_len = 0;
        Ok(Some(std::mem::take(&mut self.body)))
    }

    fn body_length(&self) -> Option<usize> {
        (self.header_len == HEADER).then(|| u32::from_le_bytes(self.header) as usize)
    }
}
