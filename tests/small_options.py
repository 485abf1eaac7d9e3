"""Configuration keys and values that shrink the quick configuration for tests of programs."""

SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cuda",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "TEST.DETECTIONS_PER_IMAGE": 5,
}
