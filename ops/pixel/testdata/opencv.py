"""Makes opencv.bin: a small picture resized by OpenCV to several sizes. pip install "numpy<2" opencv-python-headless==4.6.0.66, then run me."""
import cv2
import numpy as np

cv2.setUseOptimized(False)  # the code for any processor: what is compiled for newer ones rounds some cubic pixels otherwise
x, y, c = np.arange(32)[None, :, None], np.arange(24)[:, None, None], np.arange(3)[None, None, :]
picture = ((x * x * (c + 3) + y * y * 7 + x * y * (5 - c)) % 256).astype(np.uint8)
with open("opencv.bin", "wb") as f:
    for size in [(36, 27), (64, 48), (20, 15), (45, 24)]:
        for how in [cv2.INTER_NEAREST_EXACT, cv2.INTER_LINEAR, cv2.INTER_CUBIC]:
            f.write(cv2.resize(picture, size, interpolation=how).tobytes())
