import sys
import numpy as np, onnxruntime
from PIL import Image
model, photo, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
size = session.get_inputs()[0].shape[2]
image = np.asarray(Image.open(photo).convert("RGB").resize((size, size), Image.LANCZOS), np.float32) / 127.5 - 1
result = session.run(None, {"photo": image.transpose(2, 0, 1)[None], "alpha": np.float32([0.8])})[0][0]
pixels = ((result.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
Image.fromarray(pixels).save(output)
