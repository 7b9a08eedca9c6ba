"""configs/online"""
