"""CRC-32C in its slow form, to check the fast one and to write TensorFlow's files."""


def bit_by_bit(content):
    """Return the CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
